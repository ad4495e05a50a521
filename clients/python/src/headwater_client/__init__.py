"""What apps need to talk to Headwater."""
