import { performance } from 'node:perf_hooks';

/** A server that answers nothing for so long is away. */
const SILENT_MS = 700;
/** And one that answers others, but not this: no step is waited for longer. */
const MOST_MS = 3000;

/**
 * Decides when a step is waited for no longer. Behind many others a step may take its time; what counts is that the
 * server goes on answering those who ask about the same.
 */
export class Patience {
  private readonly answeredAt = new Map<string, number>();

  async wait<T>(about: string, reply: Promise<T>): Promise<T> {
    const begunAt = performance.now();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const look = (): void => {
        const heardAt = Math.max(begunAt, this.answeredAt.get(about) ?? 0);
        const leftMs = Math.min(heardAt + SILENT_MS, begunAt + MOST_MS) - performance.now();
        if (leftMs > 0) timer = setTimeout(look, leftMs);
        // When this process stood still, the answer is here already, only not read.
        else setImmediate(() => reject(new Error('not answered in time')));
      };
      timer = setTimeout(look, SILENT_MS);
    });
    try {
      const answer = await Promise.race([reply, late]);
      this.answeredAt.set(about, performance.now());
      return answer;
    } finally {
      clearTimeout(timer);
    }
  }
}
