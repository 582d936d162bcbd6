"""What only a GPU shows, rehearsed on the CPU where that can be; and tests and benches for half an hour on one."""
