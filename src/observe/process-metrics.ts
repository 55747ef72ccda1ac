import { Counter, Gauge, type MetricObjectWithValues, type MetricValue, Registry } from 'prom-client';

/** The metrics of one process as values, for `sumMetrics`. */
export type MetricValues = readonly MetricObjectWithValues<MetricValue<string>>[];

/** The limit that a refused connection exceeded. */
export type RefusedBy = 'total' | 'address';

export function refusedConnections(registry: Registry): Counter<'limit'> {
  return new Counter({
    name: 'rufh_connections_refused_total',
    help: 'Client connections refused, by the limit they exceeded: "total" or "address".',
    labelNames: ['limit'],
    registers: [registry],
  });
}

/** The result of a reload. */
export type ReloadOutcome = 'applied' | 'refused' | 'failed';

export function reloads(registry: Registry): (result: ReloadOutcome) => void {
  const count = new Counter({
    name: 'rufh_config_reloads_total',
    help: 'Reloads of the configuration, by result; unless it is "applied", the former configuration still applies.',
    labelNames: ['result'],
    registers: [registry],
  });
  const appliedAt = new Gauge({
    name: 'rufh_config_applied_timestamp_seconds',
    help: 'When the configuration that applies was put into use, in seconds since 1970.',
    registers: [registry],
  });
  appliedAt.setToCurrentTime();
  for (const result of ['applied', 'refused', 'failed'] as const) count.inc({ result }, 0);
  return (result) => {
    count.inc({ result });
    if (result === 'applied') appliedAt.setToCurrentTime();
  };
}

/** The metrics of a process that only accepts connections and hands them to workers. */
export class ConnectionMetrics {
  private readonly registry = new Registry();
  private readonly refused = refusedConnections(this.registry);

  /** As in `Metrics`. */
  countReloads(): (result: ReloadOutcome) => void {
    return reloads(this.registry);
  }

  connectionRefused(limit: RefusedBy): void {
    this.refused.inc({ limit });
  }

  values(): Promise<MetricValues> {
    return this.registry.getMetricsAsJSON();
  }
}
