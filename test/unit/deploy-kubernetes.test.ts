import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import type { StatefulSet } from 'kubernetes-types/apps/v1.js';
import type { ConfigMap, Container, Secret, Service } from 'kubernetes-types/core/v1.js';
import type { NetworkPolicy } from 'kubernetes-types/networking/v1.js';
import type { PodDisruptionBudget } from 'kubernetes-types/policy/v1.js';
import { parse } from 'yaml';
import { type KubernetesObject, kustomize, loadShipped, typeMistakes } from '../support/deploy-files.js';

const here = (path: string): string => fileURLToPath(new URL(`../../deploy/kubernetes/${path}`, import.meta.url));

const secret = parse(readFileSync(here('secret.example.yaml'), 'utf8')) as Secret & KubernetesObject;
/** `stop.grace`, as nobody has set another. */
const STOP_GRACE_SECONDS = 30;

interface Kinds {
  readonly ConfigMap: ConfigMap;
  readonly NetworkPolicy: NetworkPolicy;
  readonly PodDisruptionBudget: PodDisruptionBudget;
  readonly Service: Service;
  readonly StatefulSet: StatefulSet;
}

function find<K extends keyof Kinds>(objects: readonly KubernetesObject[], kind: K, name = 'rufh-proxy'): Kinds[K] {
  const found = objects.filter((object) => object.kind === kind && object.metadata.name === name);
  expect(found).toHaveLength(1);
  return found[0] as Kinds[K];
}

test('a mistake in a manifest is noticed', () => {
  const wrong = { apiVersion: 'v1', kind: 'Service', metadata: { name: 'x' }, spec: { ports: [{ prot: 80 }] } };
  expect(typeMistakes([wrong]).join()).toContain("does not exist in type 'ServicePort'");
  expect(typeMistakes([{ apiVersion: 'apps/v1', kind: 'Statefulset', metadata: { name: 'x' } }])).toHaveLength(1);
});

describe.each(['shared-spool', 'node-local'])('%s', (overlay) => {
  const objects = kustomize(here(overlay));
  const nodes = find(objects, 'StatefulSet').spec!;
  const pod = nodes.template.spec!;
  const container = pod.containers[0]! as Container & Required<Pick<Container, 'env' | 'ports' | 'volumeMounts'>>;
  const portNamed = (name: unknown): number => container.ports.find((port) => port.name === name)!.containerPort;
  const config = loadShipped(find(objects, 'ConfigMap').data!['rufh-proxy.yaml']!, {
    env: { POD_NAME: 'rufh-proxy-0', POD_NAMESPACE: 'uploads' },
    secrets: secret.stringData!,
  });

  test('is what Kubernetes knows', () => {
    expect(typeMistakes([...objects, secret])).toEqual([]);
  });

  test('everything that is for the nodes finds them by their labels', () => {
    const labels = nodes.template.metadata!.labels;
    const selectors = [
      nodes.selector.matchLabels,
      find(objects, 'PodDisruptionBudget').spec!.selector!.matchLabels,
      find(objects, 'NetworkPolicy').spec!.podSelector.matchLabels,
      find(objects, 'Service').spec!.selector,
      find(objects, 'Service', nodes.serviceName).spec!.selector,
      ...pod.topologySpreadConstraints!.map(({ labelSelector }) => labelSelector!.matchLabels),
    ];
    expect(selectors).toEqual(selectors.map(() => labels));
  });

  test('the configuration listens where ports, probes and Services lead', () => {
    expect(config.listeners.map(({ address }) => address)).toEqual([
      { kind: 'tcp', host: '0.0.0.0', port: portNamed('http') },
    ]);
    expect(config.admin!.address).toEqual({ kind: 'tcp', host: '0.0.0.0', port: portNamed('admin') });
    const probes = [container.startupProbe, container.livenessProbe, container.readinessProbe];
    expect(probes.map((probe) => probe!.httpGet!.port)).toEqual(['admin', 'admin', 'admin']);
    expect(probes.map((probe) => probe!.httpGet!.path)).toEqual(['/healthz', '/healthz', '/readyz']);
    expect(config.admin).toMatchObject({ token: secret.stringData!['admin-token'], open: ['health'], insecure: false });
    expect(find(objects, 'Service').spec!.ports!.map(({ targetPort }) => targetPort)).toEqual(['http']);
    const internal = find(objects, 'Service', nodes.serviceName).spec!.ports!;
    expect(internal.map(({ targetPort }) => targetPort)).toEqual(['internal']);
    const allowed = find(objects, 'NetworkPolicy').spec!.ingress!;
    const open = allowed.filter(({ from }) => from === undefined).flatMap(({ ports }) => ports!);
    expect(open.map(({ port }) => port)).toEqual(['http']);
  });

  test('every volume that is mounted is there, and what the configuration names lies in one of them', () => {
    const volumes = [...pod.volumes!, ...(nodes.volumeClaimTemplates ?? []).map(({ metadata }) => metadata!)];
    const mounted = container.volumeMounts.map(({ name }) => name);
    expect(volumes.map(({ name }) => name).sort()).toEqual(mounted.sort());
    const at = (name: string): string => container.volumeMounts.find((mount) => mount.name === name)!.mountPath;
    expect(config.data).toBe(at('data'));
    expect(container.args).toContain(`${at('config')}/rufh-proxy.yaml`);
    expect(container.env[0]!.value).toBe(`${at('config')}/rufh-proxy.yaml`);
    const text = find(objects, 'ConfigMap').data!['rufh-proxy.yaml']!;
    const files = [...text.matchAll(/_file: (\S+)/g)].map(([, file]) => file);
    const known = Object.keys(secret.stringData!).map((key) => `${at('secrets')}/${key}`);
    expect(files.length).toBeGreaterThan(0);
    expect(files.filter((file) => !known.includes(file!))).toEqual([]);
  });

  test('a stop has the time it needs, and one node is missing at a time', () => {
    const [, seconds] = container.lifecycle!.preStop!.exec!.command!;
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThan(Number(seconds) + STOP_GRACE_SECONDS);
    expect(config.stop.graceMs).toBe(STOP_GRACE_SECONDS * 1000);
    expect(find(objects, 'PodDisruptionBudget').spec!.maxUnavailable).toBe(1);
    expect(nodes.replicas).toBeGreaterThan(1);
  });

  test('the process has no rights that it does not need', () => {
    expect(pod.securityContext).toMatchObject({ runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } });
    expect(pod.automountServiceAccountToken).toBe(false);
    expect(container.securityContext).toEqual({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
  });
});

test('nodes with a disk each call each other by the names that their Service gives them', () => {
  const objects = kustomize(here('node-local'));
  const nodes = find(objects, 'StatefulSet').spec!;
  const text = find(objects, 'ConfigMap').data!['rufh-proxy.yaml']!;
  const config = loadShipped(text, {
    env: { POD_NAME: 'rufh-proxy-0', POD_NAMESPACE: 'uploads' },
    secrets: secret.stringData!,
  });
  const { port } = find(objects, 'Service', nodes.serviceName).spec!.ports![0]!;
  expect(config.cluster!.advertise).toBe(`http://rufh-proxy-0.${nodes.serviceName}.uploads.svc:${port}`);
  expect(config.cluster!.listen).toEqual({ kind: 'tcp', host: '0.0.0.0', port });
  const names = nodes.template.spec!.containers[0]!.env!.map(({ name }) => name);
  expect(names).toEqual(['RUFH_PROXY_CONFIG', 'POD_NAME', 'POD_NAMESPACE']);
});
