"""What a limit would refuse, before anybody sets it; and which limit would fit."""
