import type { Admin } from '../../src/admin/admin-http.js';
import { startAdmin } from '../../src/admin/admin.js';
import type { UploadsApi } from '../../src/admin/uploads-api.js';
import type { Outcome } from '../../src/model/messages.js';
import type { Upload } from '../../src/model/upload.js';
import { createLog, silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import type { SetAsideRecord } from '../../src/store/upload-store.js';
import { newUpload } from '../contract/sample-upload.js';
import { FakeNodes } from './fake-nodes.js';

/** The admin listener before rooms that only note what they are asked. */
export class FakeDesk {
  known: Upload[] = [];
  /** What the desk told its log. */
  readonly log: unknown[] = [];
  /** What was asked of the rooms behind the desk. */
  readonly asked: string[] = [];
  outcome: Outcome = { kind: 'cancelled' };
  redelivery: Awaited<ReturnType<UploadsApi['delivery']['redeliver']>> = 'begun';
  /** The rooms are open; before that there is no desk. */
  isOpen = true;
  /** Whose bytes are here. */
  node: string | undefined;
  readonly nodes = new FakeNodes();
  /** Those whose record cannot be read. */
  setAside: SetAsideRecord[] = [];
  /** What whoever asks for uploads meets. */
  fault: Error | undefined;

  admin!: Admin;

  private constructor() {}

  static async start({ token }: { readonly token?: string } = {}): Promise<FakeDesk> {
    const uploadsApi = new FakeDesk();
    uploadsApi.admin = await startAdmin({
      address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      token,
      metrics: new Metrics(),
      checks: [],
      uploadsApi: () => (uploadsApi.isOpen ? uploadsApi.deps() : undefined),
      log: silentLog(),
    });
    return uploadsApi;
  }

  upload(over: Partial<Upload> = {}): Upload {
    const added: Upload = {
      ...newUpload(),
      phase: 'receiving',
      offset: 5,
      attempts: [],
      attemptCount: 0,
      createdAt: 1_700_000_000_000 + this.known.length,
      ...over,
    };
    this.known.push(added);
    return added;
  }

  /** Its store has pages of two, so that paging is part of every test. */
  private deps(): UploadsApi {
    const note = (what: string) => void this.asked.push(what);
    return {
      store: {
        setAsideRecords: () => (this.fault ? Promise.reject(this.fault) : Promise.resolve(this.setAside)),
        list: (after) => (this.fault ? Promise.reject(this.fault) : Promise.resolve(this.page(after))),
      },
      uploads: { cancel: ({ id }) => Promise.resolve(this.outcome).finally(() => note(`cancel ${id}`)) },
      delivery: {
        redeliver: (id, { skipGate }) =>
          Promise.resolve(this.redelivery).finally(() => note(`redeliver ${id}${skipGate ? ' past its gate' : ''}`)),
      },
      node: this.node,
      nodes: this.nodes,
      log: createLog({
        level: 'info',
        format: 'json',
        destination: { write: (line) => this.log.push(JSON.parse(line)) },
      }),
    };
  }

  private page(after: string | undefined): { uploads: Upload[]; next?: string } {
    const from = after === undefined ? 0 : this.known.findIndex(({ id }) => id === after) + 1;
    const uploads = this.known.slice(from, from + 2);
    return { uploads, ...(from + 2 < this.known.length ? { next: uploads.at(-1)!.id } : {}) };
  }
}
