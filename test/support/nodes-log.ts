import { uploadTag } from '../../src/observe/log.js';
import type { ProxyProcess } from './proxy.js';

/** What nodes have said at last that should not have happened, and how often what may. */
export class NodesLog {
  readonly counts: Record<string, number> = {};
  /** Requests that were ended because a newer one had come. */
  takeovers = 0;
  private readonly faults: string[] = [];
  private readonly lines: string[] = [];
  private readonly undelivered: Record<string, number> = {};

  /** Takes in all that a process said; it has to have ended. */
  read(node: ProxyProcess): void {
    this.faults.push(...node.errors);
    this.lines.push(...node.lines);
    for (const line of node.log) this.note(line);
  }

  /** How often an upload was given up without an answer: each time its client may ask for another delivery. */
  givenUp(id: string): number {
    return this.undelivered[uploadTag(id)] ?? 0;
  }

  /** What was said of an upload, by those who have ended and by these who run. */
  about(id: string, running: readonly ProxyProcess[]): string[] {
    const tag = uploadTag(id);
    const all = [...this.lines, ...running.flatMap(({ lines }) => lines)].filter((line) => line.includes(tag));
    return all.sort((a, b) => timeOf(a).localeCompare(timeOf(b)));
  }

  /** Fails with what no broken network excuses. */
  check(): void {
    if (this.faults.length > 0) throw new Error(`the nodes complained:\n${this.faults.join('\n')}`);
  }

  private note(line: Record<string, unknown>): void {
    const { level, msg, err, interrupted, phase, upload } = line;
    if (interrupted === 'taken-over') this.takeovers += 1;
    if (phase === 'undelivered') this.undelivered[String(upload)] = (this.undelivered[String(upload)] ?? 0) + 1;
    if (level === 'warn' || level === 'error') this.count(String(msg).split(':')[0]!);
    const isExcused =
      (err as { code?: string } | undefined)?.code === 'STORE_UNAVAILABLE' ||
      /^(Redis is not available|the store does not answer)/.test(String(msg)) ||
      /^(Redis|the Redis) /.test(String(line['reason']));
    if (level === 'fatal' || (level === 'error' && !isExcused)) this.faults.push(JSON.stringify(line));
  }

  private count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }
}

function timeOf(line: string): string {
  return /"time":"([^"]*)"/.exec(line)?.[1] ?? '';
}
