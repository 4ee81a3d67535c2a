"""Load on a running service: what it does under many clients, and how fast it is for one."""
