"""What runs where the data is: in the controller, a delegate or a guest."""
