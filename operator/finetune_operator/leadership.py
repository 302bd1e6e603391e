"""Two replicas, one Lease: the standby watches and does nothing.

On the official client's leader election. The Lease saves work; that two operators do no harm comes from names and
resourceVersions. A leader that cannot renew ends its process, and starts anew as a standby; one that is told to end
gives the Lease back, so that the standby need not wait for its term.
"""

from __future__ import annotations

import asyncio
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

# Of the lease's seconds: how long its holder tries to renew it, and how often anybody asks. A standby sees a renewal up
# to one such pause late, and its end up to another: of 15 s it takes over within 18.
RENEW_SHARE, RETRY_SHARE = 2 / 3, 1 / 10
# How long a leader that ends tries to give the Lease back.
RELEASE_SECONDS = 5.0


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

    async def release(self) -> None:
        """Leave the Lease without a holder, if this candidate holds it, as client-go's ReleaseOnCancel does."""
        lease = await self.api_instance.read_namespaced_lease(self.name, self.namespace)
        if lease.spec is None or lease.spec.holder_identity != self.identity:
            return
        lease.spec.holder_identity, lease.spec.lease_duration_seconds = None, 1
        await self.api_instance.replace_namespaced_lease(self.name, self.namespace, lease)
        logger.info("The lease %s/%s is given back.", self.namespace, self.name)


async def lead(api: ApiClient, settings: Settings, started: Callable[[], None], lost: Callable[[], None]) -> None:
    """Wait to become the leader, call `started`, and call `lost` should leadership end; cancelled, give it back.

    What leads must have stopped before this is cancelled.
    """
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
    try:
        await election.run()
    except asyncio.CancelledError:
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await lock.release()
        except (ApiException, aiohttp.ClientError, OSError) as error:
            logger.warning("The lease was not given back, and runs out: %s", error)
        raise
