"""Two replicas, one Lease: the standby watches and does nothing.

On the official client's leader election. The Lease saves work; that two operators do no harm comes from names and
resourceVersions. A leader that cannot renew ends its process, and starts anew as a standby.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Callable

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException, V1Lease, V1ObjectMeta
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from finetune_operator.settings import Settings

logger = logging.getLogger(__name__)

# Of the lease's seconds: how long its holder tries to renew it, and how often anybody asks. A standby takes over at
# most the lease and one such pause after the last renewal.
RENEW_SHARE, RETRY_SHARE = 2 / 3, 2 / 15


class _PatientLock(LeaseLock):
    """A Lease for which an API server that does not answer is a failed renewal, not the end of the election."""

    async def get(
        self, name: str, namespace: str
    ) -> tuple[bool, LeaderElectionRecord] | tuple[bool, Exception] | tuple[bool, None]:
        try:
            return await super().get(name, namespace)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return False, ApiException(status=0, reason=str(error))

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        # Not the library's own, which passes an argument that its own types refuse.
        body = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except (ApiException, aiohttp.ClientError, OSError) as error:
            logger.warning("The lease could not be made: %s", error)
            return False
        return True

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        try:
            return bool(await super().update(name, namespace, updated_record))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.warning("The lease could not be renewed: %s", error)
            return False


async def lead(api: ApiClient, settings: Settings, started: Callable[[], None], lost: Callable[[], None]) -> None:
    """Wait to become the leader, call `started`, and call `lost` should leadership end."""
    name, namespace, seconds = settings.lease, settings.namespace, settings.lease_seconds
    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}-{uuid.uuid4().hex[:8]}"

    async def on_started() -> None:
        logger.info("This operator leads as %s.", identity)
        started()

    async def on_stopped() -> None:
        logger.error("The lease %s/%s was lost; this process ends.", namespace, name)
        lost()

    lock = _PatientLock(name, namespace, identity, api)
    deadline, pause = seconds * RENEW_SHARE, max(1.0, seconds * RETRY_SHARE)
    election = LeaderElection(Config(lock, seconds, deadline, pause, on_started, on_stopped))
    await election.run()
