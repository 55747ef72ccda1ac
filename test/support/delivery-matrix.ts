import type { Guarantee } from '../../src/model/route.js';
import type { Upload } from '../../src/model/upload.js';
import type { Course, OriginFault } from './origin-faults.js';

/** What the client does: stays, leaves for good, is back before the delivery has ended, or after. */
export const CLIENTS = ['waiting', 'gone', 'back during', 'back after'] as const;
export type Client = (typeof CLIENTS)[number];

/** What is stated of one cell, and what is seen in it. */
export interface Cell {
  /** Requests whose head the origin read, and how many of them it got whole. */
  readonly requests: number;
  readonly whole: number;
  /** What the client got, one entry each time it asked. */
  readonly got: readonly string[];
  readonly phase: Upload['phase'];
}

/** `outcome-unknown`: our 503 (or 502), "not complete", that says so. */
const UNKNOWN = 'unknown';

/** What has to happen: the table of the documentation, and what the test holds against every cell. */
export function expectedCell(course: Course, guarantee: Guarantee, client: Client): Cell {
  switch (course.is) {
    case 'answer':
      return answered(1, course.whole ? 1 : 0, client, String(course.status));
    case 'never-sent':
      return answered(1, 1, client, '201');
    case 'refused':
      return answered(2, 2, client, '201');
    case 'gateways':
      return guarantee === 'at_least_once' ? answered(2, 2, client, '201') : unknown({ requests: 1, whole: 1 }, client);
    case 'challenge':
      return challenged(client);
    case 'unknown': {
      const first = { requests: course.seen ? 1 : 0, whole: course.whole ? 1 : 0 };
      const cell =
        guarantee === 'at_least_once'
          ? answered(first.requests + 1, first.whole + 1, client, '201')
          : unknown(first, client);
      const sawBeginning = course.shown && (client === 'waiting' || client === 'back during');
      return sawBeginning ? { ...cell, got: ['cut 201', ...cell.got] } : cell;
    }
  }
}

function answered(requests: number, whole: number, client: Client, status: string): Cell {
  return { requests, whole, got: client === 'gone' ? [] : [status], phase: 'answered' };
}

/** Repeated only for a client that was told and asks again. */
function unknown(first: Pick<Cell, 'requests' | 'whole'>, client: Client): Cell {
  if (client !== 'back after') return { ...first, got: client === 'gone' ? [] : [UNKNOWN], phase: 'undelivered' };
  return { requests: first.requests + 1, whole: first.whole + 1, got: [UNKNOWN, '201'], phase: 'answered' };
}

/** Repeated only for a client that brings other credentials. */
function challenged(client: Client): Cell {
  if (client !== 'back after')
    return { requests: 1, whole: 0, got: client === 'gone' ? [] : ['401'], phase: 'undelivered' };
  return { requests: 2, whole: 1, got: ['401', '201'], phase: 'answered' };
}

const GUARANTEES: readonly Guarantee[] = ['at_most_once', 'at_least_once'];

/** The matrix as Markdown, without the lines that are the same under both guarantees twice. */
export function matrixTable(faults: readonly OriginFault[]): string {
  const lines = faults.flatMap((fault) => {
    const [once, often] = GUARANTEES.map((guarantee) => rowOf(fault.course, guarantee));
    if (once === often) return [`| ${fault.name} | any | ${once} |`];
    return [`| ${fault.name} | at most once | ${once} |`, `| | at least once | ${often} |`];
  });
  const heads = ['the origin’s first response', 'guarantee', ...CLIENTS.map((client) => `client ${client}`)];
  return [`| ${heads.join(' | ')} |`, `| ${heads.map(() => '---').join(' | ')} |`, ...lines].join('\n');
}

function rowOf(course: Course, guarantee: Guarantee): string {
  return CLIENTS.map((client) => textOf(expectedCell(course, guarantee, client))).join(' | ');
}

function textOf({ requests, whole, got, phase }: Cell): string {
  const said = got.length === 0 ? '–' : got.join(', then ');
  return `${said} · ${requests}/${whole} · ${phase}`;
}
