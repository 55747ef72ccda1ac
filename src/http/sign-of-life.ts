import type { ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import { ReadGate } from './read-gate.js';

/** A peer that has said nothing for this long is asked whether it is there, and has as long again to answer. */
export const SILENCE_MS = 20_000;

/** How often a session is looked at. */
const LIFE_LOOK_MS = 500;

/** A connection whose session has ended is closed by its peer within this time, or by us. */
const SILENT_LINGER_MS = 1500;

/**
 * Ends a session that has no life left, within two seconds or so, and one whose peer is gone without a word. TCP takes many
 * minutes to notice the second (RFC 9113 §6.7). The first hears nothing more, not even the end of its connection: Node has
 * ended it for breaking the protocol, and it would stay for ever with every stream that was open. Not needed for that once
 * Node closes such a session itself.
 */
export function endWhenDeaf(session: ServerHttp2Session, socket: Socket, silenceMs: number): void {
  const everyMs = Math.min(LIFE_LOOK_MS, silenceMs);
  const peer = new Peer(session, socket, silenceMs);
  let endedForMs = 0;
  const look = (): void => {
    if (!session.destroyed) return peer.look(everyMs);
    // The end was sent: a client that does not send its own would keep the connection.
    endedForMs += everyMs;
    if (endedForMs >= SILENT_LINGER_MS) socket.destroy();
  };
  const timer = setInterval(look, everyMs);
  socket.once('close', () => clearInterval(timer));
}

class Peer {
  private heard = -1;
  private silentMs = 0;
  /** Bytes that had been written when it was asked last. */
  private writtenWhenAsked: number | undefined;
  private isUnanswered = false;
  /** What was heard since the last question may have been the end of the session. */
  private saidSomething = false;

  constructor(
    private readonly session: ServerHttp2Session,
    private readonly socket: Socket,
    private readonly silenceMs: number,
  ) {}

  look(passedMs: number): void {
    const { bytesRead } = this.socket;
    // A peer that we do not read from cannot be heard.
    if (bytesRead !== this.heard || ReadGate.sinceHeldMs(this.socket) === 0) {
      this.begin(bytesRead);
      this.saidSomething = true;
      return;
    }
    this.silentMs += passedMs;
    if (this.isOver || (this.isUnanswered && this.silentMs >= 2 * this.silenceMs)) return this.session.destroy();
    const isSilentForLong = this.silentMs >= this.silenceMs && this.silentMs - passedMs < this.silenceMs;
    if (this.saidSomething || isSilentForLong) this.ask();
  }

  private begin(heard: number): void {
    this.heard = heard;
    this.silentMs = 0;
    this.writtenWhenAsked = undefined;
    this.isUnanswered = false;
  }

  private ask(): void {
    this.saidSomething = false;
    this.writtenWhenAsked = this.socket.bytesWritten;
    this.isUnanswered = true;
    this.session.ping(() => {
      // The answer itself is nothing to ask about again.
      if (!this.session.destroyed) this.begin(this.socket.bytesRead);
    });
  }

  /** The question was not sent, though nothing stands in its way: there is no session any more that could send it. */
  private get isOver(): boolean {
    const { session, socket, writtenWhenAsked } = this;
    if (writtenWhenAsked === undefined || socket.bytesWritten !== writtenWhenAsked) return false;
    return (session.state.outboundQueueSize ?? 0) > 0 && waitingToBeSent(socket) === 0;
  }
}

/** Of what was given to the operating system; a session writes past its socket's own queue. */
function waitingToBeSent(socket: Socket): number {
  const { _handle: handle } = socket as Socket & { readonly _handle?: { readonly writeQueueSize?: number } | null };
  return handle?.writeQueueSize ?? 0;
}
