import { spawn, spawnSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freePort, temporaryDirectory, until } from '../test/support/temporary.js';
import { stop, type Server } from './programs.js';

/** An nginx that buffers whole requests before it gives them to the origin, as it does by default; undefined where there is none. */
export async function startNginx(origin: string): Promise<Server | undefined> {
  if (spawnSync('nginx', ['-v']).status !== 0) return undefined;
  const directory = await temporaryDirectory('rufh-bench-nginx-');
  const port = await freePort();
  await mkdir(join(directory.path, 'body'));
  const file = join(directory.path, 'nginx.conf');
  await writeFile(file, configuration(directory.path, port, origin));
  const child = spawn('nginx', ['-c', file, '-p', directory.path], { stdio: 'ignore' });
  const url = `http://127.0.0.1:${port}`;
  const answers = (): Promise<boolean> =>
    fetch(url).then(
      () => true,
      () => false,
    );
  await until(answers, 'nginx to listen');
  return {
    url,
    pid: child.pid!,
    stop: async () => {
      await stop(child);
      await directory.remove();
    },
  };
}

/** One process, so that ending it leaves nothing behind. */
function configuration(directory: string, port: number, origin: string): string {
  return `
daemon off;
master_process off;
pid ${directory}/nginx.pid;
error_log ${directory}/error.log;
events {}
http {
  access_log off;
  client_max_body_size 0;
  client_body_temp_path ${directory}/body;
  server {
    listen 127.0.0.1:${port};
    location / { proxy_pass ${origin}; proxy_http_version 1.1; }
  }
}
`;
}
