"""What the services say to each other: messages, topics, and the envelope around them."""
