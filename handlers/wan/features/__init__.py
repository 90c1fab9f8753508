"""What a request can put on the WAN pipeline for one job."""
