import type { Metric, MetricObjectWithValues, MetricValue, Registry } from 'prom-client';

/** The observations of one value of the label. */
interface Series {
  /** Observations by bucket, the last one for values above all limits. */
  readonly counts: number[];
  sum: number;
}

/**
 * A histogram with one label, in the form of prom-client. Every request adds a value, and prom-client checks and hashes
 * the labels of each one, which takes ten times as long.
 */
export class DurationHistogram {
  readonly type = 'histogram';
  readonly aggregator = 'sum';
  private readonly series = new Map<string, Series>();

  private readonly label: string;
  private readonly limits: readonly number[];

  /** `limits`: upper limits of the buckets in seconds, in ascending order. */
  constructor(
    readonly name: string,
    readonly help: string,
    { label, limits }: { readonly label: string; readonly limits: readonly number[] },
    registry: Registry,
  ) {
    this.label = label;
    this.limits = limits;
    // The registry only uses the members that are here.
    registry.registerMetric(this as unknown as Metric);
  }

  observe(labelValue: string, seconds: number): void {
    let series = this.series.get(labelValue);
    if (!series) {
      series = { counts: new Array<number>(this.limits.length + 1).fill(0), sum: 0 };
      this.series.set(labelValue, series);
    }
    const at = this.limits.findIndex((limit) => seconds <= limit);
    series.counts[at === -1 ? this.limits.length : at]!++;
    series.sum += seconds;
  }

  /** Called by the registry. */
  get(): Promise<MetricObjectWithValues<MetricValue<string>>> {
    const { name, help, type, aggregator } = this;
    const values = [...this.series].flatMap(([labelValue, series]) => this.valuesOf(labelValue, series));
    return Promise.resolve({ name, help, type, aggregator, values } as unknown as MetricObjectWithValues<
      MetricValue<string>
    >);
  }

  private valuesOf(labelValue: string, { counts, sum }: Series) {
    const labels = { [this.label]: labelValue };
    let count = 0;
    const buckets = counts.map((bucketCount, at) => {
      count += bucketCount;
      const le = at < this.limits.length ? this.limits[at]! : '+Inf';
      return { labels: { le, ...labels }, value: count, metricName: `${this.name}_bucket` };
    });
    return [
      ...buckets,
      { labels, value: sum, metricName: `${this.name}_sum` },
      { labels, value: count, metricName: `${this.name}_count` },
    ];
  }
}
