"""Now, later or never?"""
