"""Write, debug and explain: the three ways to practise, and what is remembered about them."""
