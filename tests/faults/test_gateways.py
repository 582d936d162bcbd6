"""Two gateways behind one proxy, of which one is killed while clients come in."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from core.settings import Settings
from tests.integration.processes import WorkerProcess
from tests.nginx import Nginx, balanced
from tests.redis_server import RedisServer
from tests.service import free_port
from tests.soak.rolling import GatewayProcess
from tests.tiny import write_tiny_inpaint
from tests.waits import wait_for

JOBS, BEFORE = 60, 20


def test_a_killed_gateway_loses_nothing_that_was_accepted_and_the_other_answers(tmp_path: Path) -> None:
    """Its connections break, and the proxy asks the other: clients, who send a key, meet neither 5xx nor a reset."""
    ports, proxy_port, answered = [free_port(), free_port()], free_port(), threading.Semaphore(0)
    write_tiny_inpaint(tmp_path / "models" / "tiny")
    with RedisServer(aof=True) as server, httpx2.Client(timeout=60, trust_env=False) as client:
        folders = {"data_dir": tmp_path / "data", "models_dir": tmp_path / "models"}
        settings = Settings.model_validate({"redis_url": server.url, "model": "tiny", **folders})
        gateways = [GatewayProcess(settings, port, tmp_path / f"{port}.log") for port in ports]
        worker, proxy = WorkerProcess(settings, tmp_path), Nginx(tmp_path, proxy_port, balanced(proxy_port, ports))
        url = f"http://127.0.0.1:{proxy_port}/v1"

        def post(number: int) -> tuple[int, str]:
            headers = {"Idempotency-Key": f"job-{number}"}
            answer = client.post(f"{url}/txt2img", json={"prompt": "red", "steps": 2}, headers=headers)
            answered.release()
            return answer.status_code, str(answer.json().get("id"))

        try:
            for gateway in gateways:
                gateway.ready()
            worker.ready()
            proxy.ready()
            with ThreadPoolExecutor(6) as clients:
                posted = clients.map(post, range(JOBS))
                for _ in range(BEFORE):
                    assert answered.acquire(timeout=60)
                gateways[0].process.kill()
                answers = list(posted)
            assert [status for status, _ in answers] == [202] * JOBS
            assert len({job_id for _, job_id in answers}) == JOBS

            def statuses() -> set[str]:
                return {client.get(f"{url}/jobs/{job_id}").json()["status"] for _, job_id in answers}

            wait_for(lambda: statuses() == {"succeeded"}, 120, "all jobs")
        finally:
            for process in (proxy.process, worker.process, *(each.process for each in gateways)):
                process.kill()
                process.wait()
