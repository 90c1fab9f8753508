"""Small trained models, and the code that makes and checks them."""
