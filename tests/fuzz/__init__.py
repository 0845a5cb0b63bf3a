"""What comes from outside and can hold anything: `make fuzz`, and a short run of the same in the tests."""
