"""Prometheus metrics of the segmenter's cached images and their mask banks."""

from collections.abc import Iterator, Mapping
from typing import Generic

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.segmenter.cache.bank_queue import BankQueue
from services.segmenter.cache.image_tiers import ImageTiers
from services.segmenter.ports import Entry


class CacheMetrics(Collector, Generic[Entry]):
    """Collector that reads the cache tiers at scrape time.

    lookups: number of requested images that were found in each tier.
    """

    def __init__(
        self, tiers: ImageTiers[Entry], lookups: Mapping[str, int], banks: BankQueue[Entry]
    ) -> None:
        self._tiers = tiers
        self._lookups = lookups
        self._banks = banks

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        memory, disk = self._tiers.memory, self._tiers.disk
        lookups = CounterMetricFamily(
            "unspoken_cache_lookups",
            "Requested pictures by the tier that had them; none: newly encoded",
            labels=["tier"],
        )
        for tier, number in self._lookups.items():
            lookups.add_metric([tier], number)
        size = GaugeMetricFamily("unspoken_cache_bytes", "Bytes in a tier", labels=["tier"])
        size.add_metric(["memory"], memory.total_bytes)
        evicted = CounterMetricFamily("unspoken_cache_evicted", "Pictures evicted", labels=["tier"])
        evicted.add_metric(["memory"], memory.num_evicted)
        if disk is not None:
            size.add_metric(["disk"], disk.num_bytes)
            evicted.add_metric(["disk"], disk.num_evicted)
        yield from (lookups, size, evicted)
        steps = CounterMetricFamily(
            "unspoken_bank_steps",
            "Steps of mask banks; abandoned: after all callers disconnected",
            labels=["for"],
        )
        for kind, number in self._banks.steps.items():
            steps.add_metric([kind], number)
        yield steps
        yield GaugeMetricFamily(
            "unspoken_bank_queue_length",
            "Pictures waiting for their mask banks",
            value=len(self._banks),
        )
        yield GaugeMetricFamily("unspoken_cache_pictures", "Pictures in memory", value=len(memory))
