"""Do we know already?"""
