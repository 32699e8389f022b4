// Converts a backup, transfers it and reads it back, with @digitalocean/gradient; prints what that decoded.
import Gradient from '@digitalocean/gradient';

const [imageID, region] = [Number(process.argv[2]), process.argv[3]];
const client = new Gradient();
const { images, snapshots } = client.gpuDroplets;

async function ended(actionID) {
  for (;;) {
    const action = await images.actions.retrieve(actionID, { image_id: imageID });
    if (action.status !== 'in-progress') return action;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function refused(request) {
  try {
    await images.actions.create(imageID, request);
  } catch (error) {
    return { class: error.constructor.name, message: error.error.message };
  }
  throw new Error(`${request.type} was not refused`);
}

const tooEarly = await refused({ type: 'transfer', region });
const convert = await images.actions.create(imageID, { type: 'convert' });
const converted = await ended(convert.id);
const transfer = await images.actions.create(imageID, { type: 'transfer', region });
const transferred = await ended(transfer.id);
console.log(
  JSON.stringify({
    too_early: tooEarly,
    convert,
    converted,
    transfer,
    transferred,
    region: transferred.region.name,
    duration_s: (new Date(transferred.completed_at) - new Date(transferred.started_at)) / 1000,
    reason: transferred.error,
    image: (await images.retrieve(imageID)).image,
    private: (await images.list({ private: true })).images.map((one) => one.id),
    snapshots: (await snapshots.list()).snapshots,
  }),
);
