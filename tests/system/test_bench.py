from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench" / "bench.py"


@pytest.mark.slow
def test_the_benchmark_measures_what_it_says(tmp_path: Path) -> None:
    """One small round gives every ratio, and beside them every single run."""
    output = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, BENCH, "--quick", "--output", output], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(output.read_text())
    wanted = {
        "import_vs_cp", "transfer_vs_cp", "transfer_vs_rclone", "changed_vs_cp", "changed_bytes_share", "export_vs_cp",
        "upload_vs_zstd", "upload_changed_vs_cp", "upload_changed_bytes_share", "upload_changed_wire_share",
        "export_onto_vs_cp", "export_onto_wire_share", "import_vs_zstd",
        "convert_ms_1mib", "convert_ms_1tib", "peak_rss_mib", "get_vs_moto", "accepted_transfers_per_s",
        "create_droplet_vs_1mib", "snapshot_vs_cp", "droplets_listed_per_s", "s3_transfer_vs_rclone",
        "s3_copied_vs_carried", "accepted_transfers_per_s_4_workers", "finished_transfers_per_s_1_workers",
        "finished_transfers_per_s_2_workers", "finished_transfers_per_s_4_workers",
        "collect_mib_per_s", "scrub_mib_per_s", "import_vmdk_stream_vs_raw", "import_qcow2_zstd_vs_convert",
    }  # fmt: skip
    assert wanted <= results["ratios"].keys()
    assert all(results["runs"][name] for name in wanted)
    assert all(value > 0 for value in results["ratios"].values())


@pytest.mark.slow
def test_a_service_stands_a_siege(tmp_path: Path) -> None:
    """Every attack comes to what it should, and no request of a well-behaved client fails meanwhile."""
    output = tmp_path / "siege.jsonl"
    done = subprocess.run(
        [sys.executable, BENCH.with_name("siege.py"), "--seconds", "15", "--output", output],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    figures = json.loads(output.read_text())
    # The machine that runs tests is busy with others, so that the times of requests say nothing here.
    assert [fault for fault in figures["faults"] if "the p99 of GETs" not in fault] == [], done.stderr[-3000:]
