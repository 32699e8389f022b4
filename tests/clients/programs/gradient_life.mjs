// Lives a Droplet's life with @digitalocean/gradient, and prints what it saw.
import assert from 'node:assert';
import Gradient from '@digitalocean/gradient';

const [imageID, publicKey] = [Number(process.argv[2]), process.argv[3]];
const client = new Gradient();
const { gpuDroplets: droplets } = client;
const { images } = droplets;
const pause = () => new Promise((resolve) => setTimeout(resolve, 100));

async function ended(action) {
  while (action.status === 'in-progress') {
    await pause();
    if (action.resource_type === 'droplet')
      ({ action } = await droplets.actions.retrieve(action.id, { droplet_id: action.resource_id }));
    else action = await images.actions.retrieve(action.id, { image_id: action.resource_id });
  }
  return action;
}

async function create(facts) {
  const { droplet, links } = await droplets.create({ size: 's-1vcpu-1gb', ...facts });
  const { action } = await droplets.actions.retrieve(links.actions[0].id, { droplet_id: droplet.id });
  await ended(action);
  return (await droplets.retrieve(droplet.id)).droplet;
}

async function refused(call) {
  try {
    await call();
  } catch (error) {
    return [error.constructor.name, error.error.message];
  }
  throw new Error('nothing was refused');
}

const { regions } = await client.regions.list();
const { sizes } = await droplets.sizes.list();
const { ssh_key: key } = await droplets.account.keys.create({ name: 'mine', public_key: publicKey });
const first = await create({
  name: 'web-01',
  region: 'nyc3',
  image: imageID,
  backups: true,
  backup_policy: { plan: 'daily', hour: 4 },
  tags: ['web'],
  ssh_keys: [key.id],
});
const { policy } = await droplets.backups.retrievePolicy(first.id);

const deadline = Date.now() + 60_000;
let backups = [];
while (backups.length < 2) {
  assert(Date.now() < deadline, 'no backups were taken');
  await pause();
  ({ backups } = await droplets.backups.list(first.id));
}
const [old, fresh] = backups.sort((one, other) => new Date(one.created_at) - new Date(other.created_at));

const taken = await ended((await droplets.actions.initiate(first.id, { type: 'snapshot', name: 'by hand' })).action);
const [snapshot] = (await droplets.listSnapshots(first.id)).snapshots;

const transfer = () => images.actions.create(old.id, { type: 'transfer', region: 'ams3' });
const refusal = await refused(transfer);
const converted = await ended(await images.actions.create(old.id, { type: 'convert' }));
const errored = await ended(await transfer());
const transferred = await ended(await transfer());
const { image } = await images.retrieve(old.id);

const second = await create({ name: 'web-02', region: 'ams3', image: old.id, tags: ['web', 'moved'] });
const tagged = (await droplets.list({ tag_name: 'web' })).droplets;
await droplets.delete(first.id);
console.log(
  JSON.stringify({
    offer: [
      regions.find((one) => one.slug === 'nyc3').name,
      sizes.find((one) => one.slug === 's-1vcpu-1gb').memory,
    ],
    keys: (await droplets.account.keys.list()).ssh_keys.map((one) => one.name),
    droplet: first,
    public_ip: first.networks.v4.filter((one) => one.type === 'public').map((one) => one.ip_address),
    policy: [policy.backup_policy.plan, policy.backup_policy.hour, policy.backup_policy.retention_period_days],
    backups: [old.id, fresh.id],
    hours_between_backups: (new Date(fresh.created_at) - new Date(old.created_at)) / 3_600_000,
    snapshot,
    snapshot_is_of_its_action: snapshot.created_at === taken.started_at,
    refusal,
    converted,
    errored,
    reason: errored.error,
    transferred,
    seconds: (new Date(transferred.completed_at) - new Date(transferred.started_at)) / 1000,
    image,
    second,
    tagged: tagged.map((one) => one.name),
    gone: [
      (await refused(() => droplets.retrieve(first.id)))[0],
      (await refused(() => images.retrieve(fresh.id)))[0],
    ],
    private: (await images.list({ private: true })).images.map((one) => one.id),
    snapshots: (await droplets.snapshots.list()).snapshots,
    types: [transferred.id, transferred.started_at, image.id, image.created_at].map((one) => typeof one),
  }),
);
