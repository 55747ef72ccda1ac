import type { ClientRequest } from 'node:http';

/** How often an origin's silence is looked at within the time it may last. */
const LOOKS = 4;

/**
 * Notices an origin that moves no byte for `limitMs` while it is the one we wait for: a client that is slow to send or
 * to read is not the origin's silence.
 */
export class Silence {
  private readonly timer: NodeJS.Timeout;
  private moved = 0;
  private looks = 0;

  constructor(
    private readonly request: ClientRequest,
    limitMs: number,
    private readonly waitsForOrigin: () => boolean,
    private readonly tooLong: () => void,
  ) {
    this.timer = setInterval(() => this.look(), Math.max(1, Math.ceil(limitMs / LOOKS)));
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private look(): void {
    // A request has no socket before it is given one.
    const { socket } = this.request;
    const moved = socket ? socket.bytesRead + socket.bytesWritten : 0;
    const silent = moved === this.moved && this.waitsForOrigin();
    this.moved = moved;
    this.looks = silent ? this.looks + 1 : 0;
    if (this.looks < LOOKS) return;
    this.stop();
    this.tooLong();
  }
}
