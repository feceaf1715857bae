"""Was it asked before in other words?"""
