"""How long is it, exactly?"""
