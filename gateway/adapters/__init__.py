"""Which adapters of the models are there?"""
