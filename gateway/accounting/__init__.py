"""What did it use?"""
