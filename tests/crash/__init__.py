"""The daemon as a process: started, stopped, killed, out of room, under load."""
