import type { Admin } from '../../src/admin/admin-http.js';
import { type AdminDeps, startAdmin } from '../../src/admin/admin.js';
import type { UploadsApi } from '../../src/admin/uploads-api.js';
import type { Outcome } from '../../src/model/messages.js';
import type { StoryEntry, StoryEvent } from '../../src/model/story.js';
import type { Upload } from '../../src/model/upload.js';
import { createLog, silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import type { Nodes, NodeState } from '../../src/store/nodes.js';
import type { SetAsideRecord } from '../../src/store/upload-store.js';
import { newUpload } from '../contract/sample-upload.js';

/** The admin listener over a store, uploads and deliveries that only note what they are asked. */
export class FakeAdmin {
  known: Upload[] = [];
  /** What the listener logged. */
  readonly log: unknown[] = [];
  /** What it asked of uploads and deliveries. */
  readonly asked: string[] = [];
  outcome: Outcome = { kind: 'cancelled' };
  redelivery: Awaited<ReturnType<UploadsApi['delivery']['redeliver']>> = 'begun';
  /** Storage is open; before that there is no list of uploads. */
  isOpen = true;
  /** The name of this node. */
  node: string | undefined;
  readonly nodes = new FakeNodes();
  /** Uploads whose record cannot be read. */
  setAside: SetAsideRecord[] = [];
  /** Reading uploads fails with it. */
  fault: Error | undefined;

  /** What happened to uploads, by their tags; undefined as if that were not kept. */
  stories: Map<string, StoryEntry[]> | undefined;

  listener!: Admin;

  private constructor() {}

  static async start({ token, ...more }: { readonly token?: string } & Partial<AdminDeps> = {}): Promise<FakeAdmin> {
    const admin = new FakeAdmin();
    admin.listener = await startAdmin({
      address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      token,
      metrics: new Metrics(),
      checks: [],
      uploadsApi: () => (admin.isOpen ? admin.deps() : undefined),
      log: silentLog(),
      ...more,
    });
    return admin;
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
    const { stories } = this;
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
      ...(stories && {
        story: {
          read: (tag: string) => Promise.resolve(stories.get(tag) ?? []),
          note: (id: string, { kind }: StoryEvent) => note(`note ${kind} of ${id}`),
        },
      }),
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

/** The nodes of a cluster as a test says they are. */
export class FakeNodes implements Nodes {
  private readonly states = new Map<string, NodeState>();

  /** From now on this is what is known of a node. */
  set(name: string, state: Partial<Omit<NodeState, 'name'>>): void {
    const before = this.states.get(name) ?? { name, url: '', silentMs: 0, isLeaving: false };
    this.states.set(name, { ...before, ...state });
  }

  find(name: string): Promise<NodeState | undefined> {
    return Promise.resolve(this.states.get(name));
  }

  all(): Promise<readonly NodeState[]> {
    return Promise.resolve([...this.states.values()]);
  }

  announce({ name, url, isLeaving }: { name: string; url: string; isLeaving: boolean }): Promise<void> {
    this.set(name, { url, isLeaving, silentMs: 0 });
    return Promise.resolve();
  }

  forget(name: string): Promise<void> {
    this.states.delete(name);
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
