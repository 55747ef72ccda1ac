import { AggregatorRegistry } from 'prom-client';
import type { Figures } from './metrics.js';

/** The figures of several processes as one, in the text format of Prometheus: added up where that means something. */
export async function summedFigures(all: readonly Figures[]): Promise<{ type: string; text: string }> {
  const sum = AggregatorRegistry.aggregate(all.map((figures) => [...figures]));
  return { type: sum.contentType, text: await sum.metrics() };
}
