"""What would another version have said?"""
