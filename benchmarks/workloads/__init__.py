"""What two servers are compared by: each module is a kind of use."""
