"""Loading, comparing and cutting models; the forward that computes an objective where the head is."""
