import type { Log } from '../observe/log.js';
import type { ClientGate } from './given-connections.js';
import { WorkerPost } from './worker-post.js';
import type { WorkerProcess } from './worker-process.js';

export interface CrewOptions {
  readonly workers: number;
  readonly log: Log;
  /** Milliseconds by a clock that nobody sets. */
  readonly monotonic: () => number;
  readonly gate?: ClientGate;
  /** Called for each process that has come to listen, and again when it has ended. */
  readonly onListening: (worker: WorkerProcess) => void;
  readonly onEnded: (worker: WorkerProcess) => void;
}

/** All workers of one primary process. */
export class Crew {
  readonly posts: readonly WorkerPost[];
  private announced = false;
  private turn = 0;

  constructor({ workers, ...options }: CrewOptions) {
    const onListening = (worker: WorkerProcess) => {
      if (this.announced) worker.tell({ kind: 'announced' });
      options.onListening(worker);
    };
    this.posts = Array.from(
      { length: workers },
      (_, at) => new WorkerPost({ ...options, number: at + 1, onListening }),
    );
  }

  /**
   * Where all of them listen. Fails with the first that does not come to. One goes before the others: what keeps it
   * from starting would keep all of them, and is told once; and it makes room where a process that died left a socket.
   */
  async start(): Promise<readonly string[]> {
    const [first, ...others] = this.posts;
    const urls = await first!.start(false);
    await Promise.all(others.map((post) => post.start(true)));
    return urls;
  }

  /** All of them listen, and whoever started us knows: logs go to standard output, as do those of later processes. */
  announce(): void {
    this.announced = true;
    for (const worker of this.listening) worker.tell({ kind: 'announced' });
  }

  /** Connections are short. */
  endIdle(): void {
    for (const worker of this.listening) worker.tell({ kind: 'end-idle' });
  }

  get listening(): readonly WorkerProcess[] {
    return this.posts.flatMap(({ listening }) => (listening ? [listening] : []));
  }

  /** Each in its turn; undefined while none listens. */
  next(): WorkerProcess | undefined {
    const { listening } = this;
    return listening[this.turn++ % listening.length];
  }

  /** Fails when one of them did not end gently, but not before all have ended. */
  async stop(): Promise<void> {
    const ends = await Promise.allSettled(this.posts.map((post) => post.stop()));
    const failed = ends.find((end) => end.status === 'rejected');
    if (failed) throw failed.reason;
  }

  kill(): void {
    for (const post of this.posts) post.kill();
  }
}
