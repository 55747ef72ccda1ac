import { AggregatorRegistry } from 'prom-client';
import type { Figures } from './metrics.js';

/** The figures of several processes as one, in the text format of Prometheus: added up where that means something. */
export async function summedFigures(all: readonly Figures[]): Promise<{ type: string; text: string }> {
  const sum = AggregatorRegistry.aggregate(all.map((figures) => [...figures]));
  return { type: sum.contentType, text: await sum.metrics() };
}

/** Of figures that are no more, what still counts: totals never go down, what is the case now does not remain. */
export function lastingFigures(all: readonly Figures[]): Promise<Figures> {
  const totals = all.map((figures) => figures.filter(({ type }) => LASTING.has(String(type))));
  return AggregatorRegistry.aggregate(totals).getMetricsAsJSON();
}

const LASTING = new Set(['counter', 'histogram']);
