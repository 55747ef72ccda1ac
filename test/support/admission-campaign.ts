import { setTimeout as sleep } from 'node:timers/promises';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, requestOnce } from './client.js';
import { seededRandom } from './temporary.js';
import type { WireRequest, WireResponse } from './wire.js';

/** What happens to one upload of the campaign. */
const ENDS = ['at once', 'resumed', 'cut', 'cancelled', 'left empty'] as const;

/** The machines that the uploads go to, and what befalls them. */
export interface Trouble {
  /** A node that may be asked now. */
  url(random: () => number): string;
  /** The mean time between two strikes. */
  readonly everyMs: number;
  /** Called between two uploads. */
  strike(random: () => number): Promise<void>;
}

export interface AdmissionSummary {
  completed: number;
  cancelled: number;
  abandoned: number;
  /** How often an upload was refused, by the status of the response. */
  refused: Record<number, number>;
}

/** A creation that is refused is tried again so often. */
const MAX_TRIES = 60;

/** For an upload that was let in: its node may start again meanwhile, on a machine with much else to do. */
const DEADLINE_MS = 60_000;

const PARALLEL = 6;

/**
 * Many uploads of random sizes that together do not fit into the spool. Some are cut, cancelled or left, and the machine
 * fails in between. Fails if an upload that was let in does not get to its end although its client goes on.
 */
export class AdmissionCampaign {
  readonly summary: AdmissionSummary = { completed: 0, cancelled: 0, abandoned: 0, refused: {} };
  private readonly random: () => number;

  constructor(
    private readonly trouble: Trouble,
    private readonly options: { readonly seed: number; readonly uploads: number; readonly maxBytes: number },
  ) {
    this.random = seededRandom(options.seed);
  }

  async run(): Promise<AdmissionSummary> {
    let remaining = this.options.uploads;
    const work = async (): Promise<void> => {
      while (remaining-- > 0) await this.upload();
    };
    const troubles = async (): Promise<void> => {
      while (remaining > 0) {
        await sleep(this.trouble.everyMs * (0.5 + this.random()));
        await this.trouble.strike(this.random);
      }
    };
    await Promise.all([...Array.from({ length: PARALLEL }, work), troubles()]);
    return this.summary;
  }

  private async upload(): Promise<void> {
    const end = ENDS[Math.floor(this.random() * ENDS.length)]!;
    const bytes = Buffer.alloc(1 + Math.floor(this.random() * this.options.maxBytes), 'x');
    const isCounted = this.random() < 0.7;
    if (end === 'cut') return this.cut(bytes, isCounted);
    const target = await this.create(bytes.length, isCounted);
    // Its client does not know whether it was created.
    if (target === undefined || end === 'left empty') this.summary.abandoned++;
    else if (end === 'cancelled') {
      await this.attempt({ method: 'DELETE', target });
      this.summary.cancelled++;
    } else if (await this.finish(target, bytes, end === 'at once' ? 1 : 3)) this.summary.completed++;
    else this.summary.abandoned++;
  }

  /** Sends an upload whole, and leaves in the middle of it. */
  private async cut(bytes: Buffer, isCounted: boolean): Promise<void> {
    this.summary.abandoned++;
    try {
      const client = await connect(this.trouble.url(this.random));
      const size: HeaderLine = isCounted ? ['Content-Length', `${bytes.length}`] : ['Transfer-Encoding', 'chunked'];
      await client.sendHead('POST', '/cut', [['Upload-Complete', '?1'], size]);
      const part = bytes.subarray(0, Math.floor(this.random() * bytes.length));
      if (part.length > 0)
        await client.send(isCounted ? part.toString() : `${part.length.toString(16)}\r\n${part.toString()}\r\n`);
      await sleep(this.random() * 30);
      client.destroy();
    } catch {
      // The machine was away.
    }
  }

  private async create(length: number, isCounted: boolean): Promise<string | undefined> {
    const headers: HeaderLine[] = [
      ['Upload-Complete', '?0'],
      ...(isCounted ? [['Upload-Length', `${length}`] as const] : []),
    ];
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const response = await this.attempt({ method: 'POST', target: '/x', headers, body: '' });
      if (response === undefined) return undefined;
      const location = response.header('Location');
      if (response.status === 201 && location !== undefined) return new URL(location).pathname;
      this.noteRefusal(response);
      await sleep(50);
    }
    return undefined;
  }

  /** Sends what is missing in parts until the origin's answer is there; false if the upload has expired. */
  private async finish(target: string, bytes: Buffer, parts: number): Promise<boolean> {
    let lastStatus: number | undefined;
    const deadline = Date.now() + DEADLINE_MS;
    while (Date.now() < deadline) {
      const head = await this.attempt({ method: 'HEAD', target });
      lastStatus = head?.status ?? lastStatus;
      if (head?.status === 404 || head?.status === 410) return false;
      const offset = Number(head?.header('Upload-Offset') ?? NaN);
      if (head?.header('Upload-Complete') === '?1') return true;
      if (Number.isNaN(offset)) {
        await sleep(50);
        continue;
      }
      const size = Math.ceil(bytes.length / parts);
      const complete = offset + size >= bytes.length;
      const body = bytes.subarray(offset, complete ? bytes.length : offset + size);
      const headers: HeaderLine[] = [
        ['Upload-Offset', `${offset}`],
        ['Upload-Complete', complete ? '?1' : '?0'],
        ['Content-Type', 'application/partial-upload'],
      ];
      const response = await this.attempt({ method: 'PATCH', target, headers, body });
      if (complete && response?.status === 200) return true;
      if (response && response.status >= 400) {
        this.noteRefusal(response);
        lastStatus = response.status;
        await sleep(50);
      }
    }
    throw new Error(`an upload that was let in did not get to its end: ${lastStatus}`);
  }

  private noteRefusal({ status }: WireResponse): void {
    this.summary.refused[status] = (this.summary.refused[status] ?? 0) + 1;
  }

  /** Undefined while the machine is away. */
  private async attempt(request: WireRequest): Promise<WireResponse | undefined> {
    try {
      return await requestOnce(this.trouble.url(this.random), request, { deadlineMs: 10_000 });
    } catch {
      await sleep(50);
      return undefined;
    }
  }
}

/** The values of a gauge in the text of Prometheus; 0 if it is not there. */
export async function gaugeOf(adminUrl: string, name: string): Promise<number> {
  const text = (await requestOnce(adminUrl, { method: 'GET', target: '/metrics' })).body.toString();
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1] ?? 0);
}
