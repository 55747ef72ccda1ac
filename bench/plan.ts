import { parseArgs } from 'node:util';

const BENCHES = [
  'upload',
  'takeover',
  'memory',
  'eager',
  'rolling',
  'nodes',
  'round-trips',
  'small',
  'neighbour',
] as const;
export type BenchName = (typeof BENCHES)[number];

/** What to measure, and how thoroughly. */
export interface Plan {
  readonly benches: readonly BenchName[];
  readonly runs: number;
  /** Of one upload in `upload` and `eager`. */
  readonly size: number;
  /** Of the upload in `memory`. */
  readonly memorySize: number;
  /** Bytes a second of the client in `eager`. */
  readonly rate: number;
  readonly takeovers: number;
  /** Of `small`. */
  readonly connections: number;
  readonly uploads: number;
  /** Where the proxy keeps its bytes; a temporary directory when not given. */
  readonly data?: string;
  /** More flags for `rufh-proxy serve`. */
  readonly proxyFlags: readonly string[];
}

export const USAGE = `
npm run bench -- [upload] [takeover] [memory] [eager] [rolling] [nodes] [round-trips] [small] [neighbour] [options]
                                                      all when none is named

  --runs N              repetitions of each case of "upload" and "eager" (5)
  --size SIZE           size of their uploads (1GiB)
  --rate SIZE           bytes a second of the client of "eager" (50000000)
  --memory-size SIZE    size of the upload of "memory" (10GiB)
  --takeovers N         repetitions of "takeover" and "nodes" (100)
  --connections N       connections of "small", all open at once (1000)
  --uploads N           uploads of each run of "small" (5000)
  --data DIR            where the proxy keeps its bytes (a temporary directory)
  --proxy-flag FLAG     a flag more for "rufh-proxy serve"; may be given more than once
`;

/** The plan from the command line; undefined when it asks for help. */
export function parsePlan(args: readonly string[]): Plan | undefined {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      runs: { type: 'string', default: '5' },
      size: { type: 'string', default: '1GiB' },
      rate: { type: 'string', default: '50000000' },
      'memory-size': { type: 'string', default: '10GiB' },
      takeovers: { type: 'string', default: '100' },
      connections: { type: 'string', default: '1000' },
      uploads: { type: 'string', default: '5000' },
      data: { type: 'string' },
      'proxy-flag': { type: 'string', multiple: true, default: [] },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  return {
    benches: positionals.length === 0 ? BENCHES : positionals.map(parseBench),
    runs: parseCount(values.runs),
    size: parseSize(values.size),
    memorySize: parseSize(values['memory-size']),
    rate: parseSize(values.rate),
    takeovers: parseCount(values.takeovers),
    connections: parseCount(values.connections),
    uploads: parseCount(values.uploads),
    data: values.data,
    proxyFlags: values['proxy-flag'],
  };
}

function parseBench(name: string): BenchName {
  const found = BENCHES.find((bench) => bench === name);
  if (!found) throw new Error(`no bench is called "${name}": there are ${BENCHES.join(', ')}`);
  return found;
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
