"""How C is searched for: strategies that ask and tell, and the fitness of what they ask about."""
