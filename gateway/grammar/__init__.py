"""Can an answer of the required form be written at all?"""
