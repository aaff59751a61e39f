"""State with files where trio runs the app: the embedded stores need no asyncio."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tests.files.houses import file_state, local
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings

LARGE = "x" * 300_000


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_items_are_judged_filed_flushed_and_restored(backend: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with file_state("memory://", *local(tmp_path), promotion=PromotionSettings()) as house:
            state, files = house.state, house.files
            async with anyio.create_task_group() as tasks:
                assert house.house.flusher is not None
                assert house.house.rejudging is not None
                for work in (
                    house.house.flusher.run,
                    house.house.rejudging.run,
                    house.house.keep_clean,
                    house.uses.keep_telling,
                    files.keep_clean,
                ):
                    tasks.start_soon(work)
                await state.put("report", "q3", LARGE)
                await state.put("payment", "7", {"user_id": 1, "payment": {"amount": 3}})
                with anyio.fail_after(30):
                    while not await files.of_item("report", "q3"):  # noqa: ASYNC110 - another task makes it
                        await anyio.sleep(0.01)
                held = await state.get("report", "q3", consistency="strong")
                assert held is not None
                assert held.value == LARGE
                promoted = await state.promote("payment", "7")
                assert promoted is not None
                assert promoted.tier == "immediate"
                assert "payment" in str(await state.explain("payment", "7"))
                snapshot = await files.snapshot("report")
                backup = await files.backup(["report", "payment"])
                await state.delete("report", "q3")
                assert (await files.restore(snapshot)).items == 1
                assert (await files.restore(backup)).items == 2
                assert "restored" in str(await files.lineage(backup))
                assert (await files.reconcile(older_than=0.0)).rows == []
                await files.collect_garbage(grace=0.0)
                held = await state.get("report", "q3", consistency="strong")
                assert held is not None
                assert held.value == LARGE
                await house.uses.tell()
                tasks.cancel_scope.cancel()
            await house.house.end(within=5.0)
            await house.uses.end()

    anyio.run(main, backend=backend)
