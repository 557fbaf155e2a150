"""Images of more than 8 bits or of any number of channels: readers, the rule of their range, and the source of both."""
