import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from '@jest/globals';
import type { Registry } from 'prom-client';
import { parse } from 'yaml';
import { watchCertificates, watchDisk, watchOrigins, watchStore } from '../../src/app/gauges.js';
import { Metrics } from '../../src/observe/metrics.js';

const page = readFileSync('docs/operating.md', 'utf8');

/** Every metric of the proxy, and its labels. */
function metricsOfTheProxy(): Map<string, { type: string; help: string; labels: string[] }> {
  const metrics = new Metrics();
  const none = {} as never;
  watchStore(metrics, none);
  watchDisk(metrics, none);
  watchOrigins(metrics, none);
  watchCertificates(metrics, none);
  metrics.countReloads();
  metrics.countConnections(() => 0);
  metrics.countBodyMemory(() => 0);
  metrics.countQueuedDeliveries(() => 0);
  const { registry } = metrics as unknown as { registry: Registry };
  const all = registry.getMetricsAsArray() as unknown as readonly {
    readonly name: string;
    readonly help: string;
    readonly type: string;
    readonly labelNames?: readonly string[];
    /** `DurationHistogram` has one label. */
    readonly label?: string;
  }[];
  return new Map(
    all
      .filter(({ name }) => name.startsWith('rufh_'))
      .map(({ name, help, type, labelNames, label }) => [
        name,
        { type, help, labels: [...(labelNames ?? (label === undefined ? [] : [label]))] },
      ]),
  );
}

const known = metricsOfTheProxy();

/** The metrics that a query names, each with the labels that are asked of it, and the labels of its result. */
function namesIn(query: string): { metrics: { name: string; labels: string[] }[]; grouped: string[] } {
  const metrics = [...query.matchAll(/\b(rufh_[a-z_]+)(?:\{([^}]*)\})?/g)].map(([, name, matchers = '']) => ({
    name: name!.replace(/_(bucket|sum|count)$/, ''),
    labels: [...matchers.matchAll(/(\w+)\s*[=!]~?/g)].map(([, label]) => label!),
  }));
  const grouped = [...query.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, labels]) => labels!.split(/,\s*/));
  return { metrics, grouped };
}

/** What Prometheus adds by itself. */
const ADDED = ['instance', 'le'];

/** The names in a query that do not exist. */
function unknownIn(query: string): string[] {
  const { metrics, grouped } = namesIn(query);
  const labelsOf = (name: string): readonly string[] => [...(known.get(name)?.labels ?? []), ...ADDED];
  const all = metrics.flatMap(({ name }) => labelsOf(name));
  return [
    ...metrics.filter(({ name }) => !known.has(name)).map(({ name }) => name),
    ...metrics.flatMap(({ name, labels }) => labels.filter((label) => !labelsOf(name).includes(label))),
    ...grouped.filter((label) => !all.includes(label)),
  ];
}

describe('the manual', () => {
  const rows = [...page.matchAll(/^\| `(rufh_\w+)` +\| (\w+) +\| ([^|]*?) *\| (.*?) +\|$/gm)].map(
    ([, name, type, labels, help]) => [
      name!,
      { type: type!, help: help!, labels: [...labels!.matchAll(/`(\w+)`/g)].map(([, label]) => label!) },
    ],
  );

  test('has every metric with its type, labels and description, and no other', () => {
    expect(rows.length).toBeGreaterThan(30);
    expect(Object.fromEntries(rows)).toEqual(Object.fromEntries(known));
    expect(rows.length).toBe(known.size);
  });
});

describe('the alert rules', () => {
  interface Rule {
    readonly alert: string;
    readonly expr: string;
    readonly annotations: Readonly<Record<string, string>>;
  }
  const { groups } = parse(readFileSync('deploy/prometheus/rufh-proxy.rules.yaml', 'utf8')) as {
    groups: { rules: Rule[] }[];
  };
  const rules = groups.flatMap((group) => group.rules);
  const tests = parse(readFileSync('deploy/prometheus/rufh-proxy.rules.test.yaml', 'utf8')) as {
    tests: { input_series: { series: string }[]; alert_rule_test: { alertname: string; exp_alerts: unknown[] }[] }[];
  };

  test.each(rules)('$alert names metrics and labels that exist', ({ expr, annotations }) => {
    expect(namesIn(expr).metrics).not.toEqual([]);
    expect(unknownIn(expr)).toEqual([]);
    const shown = [...annotations['summary']!.matchAll(/\$labels\.(\w+)/g)].map(([, label]) => label!);
    expect(shown.filter((label) => !namesIn(expr).grouped.includes(label))).toEqual([]);
  });

  test.each(rules)('$alert says what is wrong and what to do, here and in the manual', ({ alert, annotations }) => {
    expect(Object.keys(annotations)).toEqual(['summary', 'description', 'runbook_url']);
    expect(annotations['runbook_url']).toBe(`docs/operating.md#${alert.toLowerCase()}`);
    expect(page).toContain(`\n### ${alert}\n\n`);
  });

  test('each has a test in which it fires and one in which it is quiet, with series that exist', () => {
    const asked = tests.tests.flatMap((each) => each.alert_rule_test);
    for (const { alert } of rules) {
      const expected = asked
        .filter(({ alertname }) => alertname === alert)
        .map(({ exp_alerts: alerts }) => alerts.length);
      expect([alert, expected.sort()]).toEqual([alert, [0, 1]]);
    }
    const series = tests.tests.flatMap((each) => each.input_series.map((input) => input.series));
    expect(series.length).toBeGreaterThan(20);
    expect(series.flatMap(unknownIn)).toEqual([]);
  });
});

describe('the dashboard', () => {
  interface Panel {
    readonly title: string;
    readonly targets: readonly { readonly expr: string; readonly legendFormat: string }[];
  }
  let panels: readonly Panel[] = [];
  beforeAll(() => {
    ({ panels } = JSON.parse(readFileSync('deploy/grafana/rufh-proxy.json', 'utf8')) as { panels: Panel[] });
  });

  test('names metrics and labels that exist', () => {
    const targets = panels.flatMap((panel) => panel.targets);
    expect(targets.length).toBeGreaterThan(20);
    expect(targets.flatMap(({ expr }) => unknownIn(expr))).toEqual([]);
    for (const { expr, legendFormat } of targets) {
      const shown = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label]) => label!);
      expect([legendFormat, shown.filter((label) => !namesIn(expr).grouped.includes(label))]).toEqual([
        legendFormat,
        [],
      ]);
    }
  });
});

test('the check finds names that do not exist', () => {
  expect(unknownIn('sum by (route, phase) (rate(rufh_upload{phase="x"}[5m]))')).toEqual([
    'rufh_upload',
    'phase',
    'route',
    'phase',
  ]);
  expect(unknownIn('rufh_uploads{route="x"}')).toEqual(['route']);
});
