import { parseArgs } from 'node:util';

/** Benches that are no contests: they measure ours alone, and are held only when they are named. */
export const MEASUREMENTS = ['takeover', 'nodes', 'rolling', 'round-trips', 'neighbour', 'memory'] as const;
export type MeasurementName = (typeof MEASUREMENTS)[number];

/** What to measure, and how thoroughly. */
export interface Plan {
  /** Names of contests, in the order in which they are held. */
  readonly contests: readonly string[];
  readonly measurements: readonly MeasurementName[];
  /** Fewer rounds of smaller things: to see that it runs, and roughly how fast. */
  readonly isQuick: boolean;
  /** Counted rounds of every contest; one more warms up. */
  readonly rounds: number;
  /** Measures nothing, and writes the page of the last results. */
  readonly isForDocs: boolean;
  /** Of the upload in `memory`. */
  readonly memorySize: number;
  /** Repetitions of `takeover` and `nodes`. */
  readonly takeovers: number;
  /** Where servers keep their bytes; a temporary directory when not given. */
  readonly data?: string;
  /** More flags for `rufh-proxy serve`. */
  readonly proxyFlags: readonly string[];
}

const ROUNDS = { whole: 5, quick: 1 };

/** The text for --help. */
export function usage(contests: readonly string[]): string {
  return `
npm run bench -- [NAME ...] [options]      holds all contests when none is named

  contests:      ${contests.join(' ')}
  of ours alone: ${MEASUREMENTS.join(' ')}

  --quick               fewer rounds of smaller things, in less than four minutes
  --rounds N            counted rounds of each contest (${ROUNDS.whole}, quick ${ROUNDS.quick})
  --docs                measures nothing, and makes docs/performance.md from the last results
  --memory-size SIZE    size of the upload of "memory" (10GiB)
  --takeovers N         repetitions of "takeover" and "nodes" (100)
  --data DIR            where servers keep their bytes (a temporary directory)
  --proxy-flag=FLAG     a flag more for "rufh-proxy serve"; may be given more than once

Ends with 0 when every bar is held, 1 when one is missed or something failed, and 2 for a wrong command line.
`;
}

/** The plan from the command line; undefined when it asks for help. Throws with a sentence for people when it is wrong. */
export function parsePlan(args: readonly string[], contests: readonly string[]): Plan | undefined {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      docs: { type: 'boolean', default: false },
      'memory-size': { type: 'string', default: '10GiB' },
      takeovers: { type: 'string', default: '100' },
      data: { type: 'string' },
      'proxy-flag': { type: 'string', multiple: true, default: [] },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const measurements = MEASUREMENTS.filter((name) => positionals.includes(name));
  const known = [...contests, ...MEASUREMENTS];
  const unknown = positionals.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Error(`no bench is called "${unknown}": there are ${known.join(', ')}`);
  const rounds = values.rounds ?? `${values.quick ? ROUNDS.quick : ROUNDS.whole}`;
  return {
    contests: positionals.length === 0 ? contests : contests.filter((name) => positionals.includes(name)),
    measurements,
    isQuick: values.quick,
    rounds: parseCount(rounds),
    isForDocs: values.docs,
    memorySize: parseSize(values['memory-size']),
    takeovers: parseCount(values.takeovers),
    data: values.data,
    proxyFlags: values['proxy-flag'],
  };
}

function parseCount(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new Error(`"${text}" is no number of repetitions`);
  return Number(text);
}

function parseSize(text: string): number {
  const [, amount, unit] = /^(\d+)([KMG]iB)?$/.exec(text) ?? [];
  if (amount === undefined) throw new Error(`"${text}" is no size: 500MiB, 1GiB, …`);
  return Number(amount) * { '': 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 }[unit ?? '']!;
}
