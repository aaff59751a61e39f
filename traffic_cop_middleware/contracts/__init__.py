"""What the layers say to each other: Protocols and frozen values, standard library only."""

from traffic_cop_middleware.contracts.backend import Backend, Opener
from traffic_cop_middleware.contracts.buckets import MICRO, SLACK, BucketStore, Guard, Take, Taken
from traffic_cop_middleware.contracts.events import Event, Observer

__all__ = ["MICRO", "SLACK", "Backend", "BucketStore", "Event", "Guard", "Observer", "Opener", "Take", "Taken"]
