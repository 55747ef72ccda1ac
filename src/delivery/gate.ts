import type { Readable } from 'node:stream';
import type { Headers } from '../model/headers.js';
import type { Gate } from '../model/route.js';
import type { Upload } from '../model/upload.js';
import { filenameOf } from './filename.js';
import { askCommand } from './gate-command.js';
import { askService } from './gate-http.js';
import { wholeType } from './whole-type.js';

/** What a gate says of a whole upload. It sees all of it: nothing is hidden by sending it in pieces. */
export type Verdict =
  | { readonly kind: 'allowed' }
  /** Final for the client: kept and given like an origin's answer. */
  | { readonly kind: 'refused'; readonly answer: GateAnswer }
  /** Final for the client; the bytes are kept for the operator. */
  | { readonly kind: 'quarantined'; readonly problem: string };

export interface GateAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Buffer;
}

/** The gate could not be asked, or did not say anything we know: nothing is allowed by a failure. */
export class GateFailed extends Error {
  constructor(problem: string, cause?: unknown) {
    super(problem, { cause });
    this.name = 'GateFailed';
  }
}

/** What a gate is told besides the bytes. */
export interface GateFacts {
  /** The name of this proxy in `Via`: a gate that leads back to it is a loop (RFC 9110 §7.6.3). */
  readonly via?: string;
  readonly method: string;
  readonly target: string;
  readonly length: number;
  readonly contentType: string;
  readonly filename?: string;
  readonly client: string;
}

/**
 * Asks the route's gate. `bytes` is read to its end, or destroyed when the gate has heard enough. `via`: the name by which
 * this proxy knows itself again. Rejects with `GateFailed`.
 */
export async function askGate(
  { gate, upload, via }: { readonly gate: Gate; readonly upload: Upload; readonly via?: string },
  bytes: Readable,
  signal: AbortSignal,
): Promise<Verdict> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(gate.timeoutMs)]);
  const facts = { ...factsOf(upload), via };
  try {
    return await (gate.kind === 'http' ? askService(gate, facts, bytes, limit) : askCommand(gate, facts, bytes, limit));
  } catch (error) {
    if (error instanceof GateFailed) throw error;
    const late =
      limit.aborted && !signal.aborted ? `gave no verdict within ${gate.timeoutMs} ms` : 'could not be asked';
    throw new GateFailed(`the gate ${late}`, error);
  } finally {
    bytes.destroy();
  }
}

function factsOf({ request, offset }: Upload): GateFacts {
  return {
    method: request.method,
    target: request.target,
    length: offset,
    contentType: wholeType(request),
    filename: filenameOf(request),
    client: request.clientAddress,
  };
}
