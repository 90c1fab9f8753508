"""The small WAN: a text-to-video model of one moving figure."""
