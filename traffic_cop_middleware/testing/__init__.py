"""For the people who test: a clock that stands still, pytest fixtures, and the suite that a backend has to pass.

Fixtures `fake_clock`, `memory_backend` and `open_client` come by one line in a `conftest.py`::

    pytest_plugins = ["traffic_cop_middleware.testing.fixtures"]

and a test with them waits for nothing::

    def test_third_search_is_refused_until_the_bucket_refills(fake_clock, memory_backend, open_client):
        app = Starlette(routes=[Route("/search", search)])
        TrafficCop(memory_backend, limits="2/minute").install(app)
        client = open_client(app)
        assert [client.get("/search").status_code for _ in range(3)] == [200, 200, 429]
        fake_clock.advance(30)
        assert client.get("/search").status_code == 200

A backend of your own subclasses `BucketStoreContract`, `SessionStoreContract`, `SessionRouteStoreContract`,
`RecordStoreContract`, `MetricsStoreContract`, `StateStoreContract`, `OutboxContract`, `MessageBusContract`,
`LeaseStoreContract` and `InstanceStoreContract`, documents of your own `DocumentStoreContract`, files of your own
`ObjectStoreContract`, what is known of them `FileMetadataStoreContract`, a history of your own `HistoryStoreContract`.
This module needs pytest, the suites need pytest-asyncio too, and `open_client` what Starlette's TestClient needs
(httpx2). Importing the package needs none of them.
"""

import pytest

pytest.register_assert_rewrite("traffic_cop_middleware.testing.bucket_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.bus_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.document_asking")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.document_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.document_contract_shapes")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.file_metadata_asking")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.file_metadata_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.file_metadata_contract_lineage")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.file_metadata_contract_steps")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.history_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.instance_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.lease_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.metrics_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.object_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.outbox_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.record_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.session_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.session_contract_one")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.session_contract_writes")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.session_route_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.state_asking")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.state_contract")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.state_contract_shapes")
pytest.register_assert_rewrite("traffic_cop_middleware.testing.state_contract_writes")

from traffic_cop_middleware.testing.bucket_contract import BucketStoreContract  # noqa: E402 - its asserts, rewritten
from traffic_cop_middleware.testing.bus_contract import MessageBusContract  # noqa: E402
from traffic_cop_middleware.testing.clock import FakeClock  # noqa: E402
from traffic_cop_middleware.testing.document_contract import DocumentStoreContract  # noqa: E402
from traffic_cop_middleware.testing.file_metadata_contract import FileMetadataStoreContract  # noqa: E402
from traffic_cop_middleware.testing.history_contract import HistoryStoreContract  # noqa: E402
from traffic_cop_middleware.testing.instance_contract import InstanceStoreContract  # noqa: E402
from traffic_cop_middleware.testing.lease_contract import LeaseStoreContract  # noqa: E402
from traffic_cop_middleware.testing.metrics_contract import MetricsStoreContract  # noqa: E402
from traffic_cop_middleware.testing.object_contract import ObjectStoreContract  # noqa: E402
from traffic_cop_middleware.testing.outbox_contract import OutboxContract  # noqa: E402
from traffic_cop_middleware.testing.record_contract import RecordStoreContract  # noqa: E402
from traffic_cop_middleware.testing.session_contract import SessionStoreContract  # noqa: E402
from traffic_cop_middleware.testing.session_route_contract import SessionRouteStoreContract  # noqa: E402
from traffic_cop_middleware.testing.state_contract import StateStoreContract  # noqa: E402

__all__ = [
    "BucketStoreContract",
    "DocumentStoreContract",
    "FakeClock",
    "FileMetadataStoreContract",
    "HistoryStoreContract",
    "InstanceStoreContract",
    "LeaseStoreContract",
    "MessageBusContract",
    "MetricsStoreContract",
    "ObjectStoreContract",
    "OutboxContract",
    "RecordStoreContract",
    "SessionRouteStoreContract",
    "SessionStoreContract",
    "StateStoreContract",
]
