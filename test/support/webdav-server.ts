import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { serverPort, temporaryDirectory, type TemporaryDirectory, until, within } from './temporary.js';

const MODULES = ['mpm_event', 'authz_core', 'dav', 'dav_fs'];

/** One request, as the server logged it. */
export interface DavRequest {
  readonly method: string;
  readonly path: string;
  readonly status: number;
}

/** A real WebDAV server: Apache httpd with mod_dav. */
export class WebdavServer {
  private readonly exited: Promise<unknown>;
  private said = '';

  private constructor(
    private readonly child: ChildProcess,
    readonly url: string,
    private readonly directory: TemporaryDirectory,
  ) {
    this.exited = new Promise((resolve) => child.once('close', resolve));
    child.stderr!.on('data', (bytes: Buffer) => (this.said += bytes.toString()));
  }

  static async start(): Promise<WebdavServer> {
    const directory = await temporaryDirectory('rufh-webdav-');
    const port = await serverPort();
    // As root it gives its rights away before it writes here.
    await chmod(directory.path, 0o755);
    for (const name of ['files', 'locks']) {
      await mkdir(join(directory.path, name));
      await chmod(join(directory.path, name), 0o777);
    }
    const file = join(directory.path, 'httpd.conf');
    await writeFile(file, configuration(directory.path, port));
    const args = ['-d', directory.path, '-f', file, '-DFOREGROUND'];
    const child = spawn('apache2', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    const server = new WebdavServer(child, `http://127.0.0.1:${port}`, directory);
    try {
      await until(() => child.exitCode !== null || isUp(server.url), 'the WebDAV server to be up');
      if (child.exitCode !== null) throw new Error(`Apache httpd ended: ${server.said}`);
    } catch (error) {
      await server.stop();
      throw error;
    }
    return server;
  }

  /** A file that it has stored. */
  file(path: string): Promise<Buffer> {
    return readFile(join(this.directory.path, 'files', path));
  }

  /** The requests with this method for a path. They are logged when they are over. */
  async requests(method: string, path: string): Promise<DavRequest[]> {
    const text = await readFile(join(this.directory.path, 'access.log'), 'utf8');
    return text
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      .filter(([found, at]) => found === method && at === path)
      .map(([, , status]) => ({ method, path, status: Number(status) }));
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null) this.child.kill('SIGTERM');
    const killing = setTimeout(() => this.child.kill('SIGKILL'), 5000);
    await within(this.exited, 'the WebDAV server to end');
    clearTimeout(killing);
    await this.directory.remove();
  }
}

function configuration(directory: string, port: number): string {
  const modules = MODULES.map((name) => `LoadModule ${name}_module /usr/lib/apache2/modules/mod_${name}.so\n`).join('');
  const user = process.getuid?.() === 0 ? 'User www-data\nGroup www-data\n' : '';
  return `${modules}${user}ServerName localhost
Listen 127.0.0.1:${port}
PidFile ${directory}/pid
ErrorLog ${directory}/error.log
DefaultRuntimeDir ${directory}
CustomLog ${directory}/access.log "%m %U %>s"
DavLockDB ${directory}/locks/db
DocumentRoot ${directory}/files
<Directory ${directory}/files>
  Dav On
</Directory>
`;
}

function isUp(url: string): Promise<boolean> {
  return fetch(url, { method: 'OPTIONS' }).then(
    () => true,
    () => false,
  );
}
