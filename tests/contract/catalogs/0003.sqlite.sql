BEGIN TRANSACTION;
CREATE TABLE account_transfers (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	image_id INTEGER NOT NULL, 
	sender_id INTEGER NOT NULL, 
	recipient_id INTEGER NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	created_at BIGINT NOT NULL, 
	FOREIGN KEY(image_id) REFERENCES images (id), 
	FOREIGN KEY(sender_id) REFERENCES accounts (id), 
	FOREIGN KEY(recipient_id) REFERENCES accounts (id)
);
INSERT INTO "account_transfers" VALUES(1,200000001,1,2,'pending',7);
CREATE TABLE accounts (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	uuid VARCHAR(36) NOT NULL, 
	email TEXT NOT NULL, 
	name TEXT NOT NULL, 
	UNIQUE (uuid)
);
INSERT INTO "accounts" VALUES(1,'a','a@example.invalid','A');
INSERT INTO "accounts" VALUES(2,'b','b@example.invalid','B');
CREATE TABLE actions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	account_id INTEGER, 
	type VARCHAR(32) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	resource_id BIGINT, 
	resource_type VARCHAR(16), 
	region VARCHAR(32), 
	started_at BIGINT NOT NULL, 
	completed_at BIGINT, 
	error TEXT, 
	progress TEXT, 
	detail TEXT, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	cancel_requested BOOLEAN DEFAULT false NOT NULL, lane VARCHAR(160) DEFAULT '0///' NOT NULL, process_id INTEGER REFERENCES processes (id), fence INTEGER DEFAULT '0' NOT NULL, steps_done INTEGER DEFAULT '0' NOT NULL, trace VARCHAR(64), 
	FOREIGN KEY(account_id) REFERENCES accounts (id)
);
INSERT INTO "actions" VALUES(3000000001,1,'import','completed',200000001,'image','nyc3',5,6,NULL,NULL,NULL,0,0,'0///',NULL,0,0,NULL);
INSERT INTO "actions" VALUES(3000000002,1,'transfer','in-progress',200000001,'image','ams3',7,NULL,NULL,NULL,'{"source": "nyc3", "manifest": "m1", "whole": false}',1,0,'0/1/nyc3/ams3',4,2,1,NULL);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE damages (
	object_id INTEGER NOT NULL, 
	at BIGINT NOT NULL, 
	digest VARCHAR(64), 
	reason TEXT NOT NULL, 
	found_at BIGINT NOT NULL, 
	PRIMARY KEY (object_id, at), 
	FOREIGN KEY(object_id) REFERENCES objects (id)
);
INSERT INTO "damages" VALUES(2,5,'e1','BlockCorrupt',8);
CREATE TABLE droplets (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	account_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	size VARCHAR(64) NOT NULL, 
	is_gpu BOOLEAN NOT NULL, 
	image_id INTEGER NOT NULL, 
	manifest_id INTEGER, 
	virtual_bytes BIGINT NOT NULL, 
	data_bytes BIGINT NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	facts TEXT NOT NULL, 
	backup_policy TEXT, 
	backup_due_at BIGINT, 
	backup_retry_at BIGINT, 
	created_at BIGINT NOT NULL, 
	deleted_at BIGINT, 
	FOREIGN KEY(account_id) REFERENCES accounts (id), 
	FOREIGN KEY(image_id) REFERENCES images (id), 
	FOREIGN KEY(manifest_id) REFERENCES objects (id)
);
INSERT INTO "droplets" VALUES(500000001,1,'web-1','active','nyc3','s-1vcpu-1gb',0,200000001,3,30,21,'f1','{}','{"plan":"daily","hour":0}',99,NULL,6,NULL);
CREATE TABLE facts (
	name VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "facts" VALUES('first_images_published','1');
CREATE TABLE holds (
	object_id INTEGER NOT NULL, 
	action_id INTEGER NOT NULL, 
	PRIMARY KEY (object_id, action_id), 
	FOREIGN KEY(object_id) REFERENCES objects (id), 
	FOREIGN KEY(action_id) REFERENCES actions (id)
);
INSERT INTO "holds" VALUES(1,3000000002);
INSERT INTO "holds" VALUES(2,3000000002);
INSERT INTO "holds" VALUES(3,3000000002);
INSERT INTO "holds" VALUES(5,3000000002);
CREATE TABLE images (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	account_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	type VARCHAR(16) NOT NULL, 
	distribution TEXT NOT NULL, 
	slug TEXT, 
	public BOOLEAN NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	error_message TEXT NOT NULL, 
	description TEXT, 
	created_at BIGINT NOT NULL, 
	deleted_at BIGINT, 
	virtual_bytes BIGINT, 
	data_bytes BIGINT, 
	fingerprint VARCHAR(64), 
	resource_id BIGINT, expires_at BIGINT, min_disk_gib INTEGER, 
	FOREIGN KEY(account_id) REFERENCES accounts (id), 
	UNIQUE (slug)
);
INSERT INTO "images" VALUES(200000001,1,'one','custom','Debian',NULL,0,'available','',NULL,5,NULL,30,21,'f1',NULL,NULL,NULL);
INSERT INTO "images" VALUES(200000002,1,'two','backup','Debian',NULL,0,'available','',NULL,5,NULL,NULL,NULL,'f2',500000001,9000000,1);
INSERT INTO "images" VALUES(200000003,2,'theirs','custom','Debian',NULL,0,'available','',NULL,5,NULL,NULL,NULL,'f3',NULL,NULL,NULL);
INSERT INTO "images" VALUES(200000004,1,'gone','custom','Debian',NULL,0,'deleted','',NULL,5,9,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE loose (
	object_id INTEGER NOT NULL, 
	PRIMARY KEY (object_id), 
	FOREIGN KEY(object_id) REFERENCES objects (id)
)
 WITHOUT ROWID

;
INSERT INTO "loose" VALUES(6);
CREATE TABLE lost (
	manifest_id INTEGER NOT NULL, 
	number BIGINT NOT NULL, 
	PRIMARY KEY (manifest_id, number), 
	FOREIGN KEY(manifest_id) REFERENCES objects (id)
);
INSERT INTO "lost" VALUES(4,3);
CREATE TABLE objects (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	region VARCHAR(32) NOT NULL, 
	kind VARCHAR(8) NOT NULL, 
	"key" VARCHAR(128) NOT NULL, 
	bytes BIGINT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	action_id BIGINT NOT NULL, 
	number INTEGER NOT NULL, checked_at BIGINT DEFAULT '0' NOT NULL, key_id VARCHAR(64), 
	UNIQUE (region, "key")
);
INSERT INTO "objects" VALUES(1,'nyc3','pack','p1',10,'live',3000000001,0,0,NULL);
INSERT INTO "objects" VALUES(2,'nyc3','pack','p2',11,'live',3000000001,1,8,'k1');
INSERT INTO "objects" VALUES(3,'nyc3','manifest','m1',2,'live',3000000001,2,0,NULL);
INSERT INTO "objects" VALUES(4,'nyc3','manifest','m2',3,'live',3000000001,3,0,NULL);
INSERT INTO "objects" VALUES(5,'ams3','pack','p5',12,'live',3000000002,0,0,NULL);
INSERT INTO "objects" VALUES(6,'nyc3','pack','p6',13,'live',3000000001,4,0,NULL);
INSERT INTO "objects" VALUES(7,'nyc3','pack','p7',14,'condemned',3000000001,5,0,NULL);
CREATE TABLE pieces (
	upload_id VARCHAR(36) NOT NULL, 
	number INTEGER NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	"key" VARCHAR(128) NOT NULL, 
	bytes BIGINT NOT NULL, 
	PRIMARY KEY (upload_id, number), 
	FOREIGN KEY(upload_id) REFERENCES uploads (id)
);
INSERT INTO "pieces" VALUES('u',0,'nyc3','spool/u/0',2);
CREATE TABLE processes (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name TEXT NOT NULL, 
	slots INTEGER NOT NULL, 
	beats BIGINT NOT NULL, 
	started_at BIGINT NOT NULL
);
INSERT INTO "processes" VALUES(4,'host:77',4,12,3);
CREATE TABLE reads (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	manifest_id INTEGER NOT NULL, process_id INTEGER REFERENCES processes (id), 
	FOREIGN KEY(manifest_id) REFERENCES objects (id)
);
INSERT INTO "reads" VALUES(1,3,4);
CREATE TABLE "refs" (
	object_id INTEGER NOT NULL, 
	manifest_id INTEGER NOT NULL, bytes BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (object_id, manifest_id), 
	FOREIGN KEY(object_id) REFERENCES objects (id), 
	FOREIGN KEY(manifest_id) REFERENCES objects (id)
);
INSERT INTO "refs" VALUES(1,3,10);
INSERT INTO "refs" VALUES(2,3,4);
INSERT INTO "refs" VALUES(2,4,7);
CREATE TABLE repeats (
	account_id INTEGER NOT NULL, 
	"key" VARCHAR(255) NOT NULL, 
	request VARCHAR(64) NOT NULL, 
	outcome TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (account_id, "key"), 
	FOREIGN KEY(account_id) REFERENCES accounts (id)
);
INSERT INTO "repeats" VALUES(1,'k','r','{}',5);
CREATE TABLE replicas (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	image_id INTEGER NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	manifest_id INTEGER NOT NULL, 
	UNIQUE (image_id, region), 
	FOREIGN KEY(image_id) REFERENCES images (id), 
	FOREIGN KEY(manifest_id) REFERENCES objects (id)
);
INSERT INTO "replicas" VALUES(1,200000001,'nyc3',3);
INSERT INTO "replicas" VALUES(2,200000002,'nyc3',4);
CREATE TABLE "samples" (
	region VARCHAR(32) NOT NULL, 
	digest BIGINT NOT NULL, 
	manifest_id INTEGER NOT NULL, 
	PRIMARY KEY (region, digest, manifest_id), 
	FOREIGN KEY(manifest_id) REFERENCES objects (id)
)
 WITHOUT ROWID

;
INSERT INTO "samples" VALUES('nyc3',77,3);
INSERT INTO "samples" VALUES('nyc3',78,3);
INSERT INTO "samples" VALUES('nyc3',77,4);
CREATE TABLE ssh_keys (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	account_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	public_key TEXT NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	UNIQUE (account_id, fingerprint), 
	FOREIGN KEY(account_id) REFERENCES accounts (id)
);
INSERT INTO "ssh_keys" VALUES(1,1,'laptop','ssh-ed25519 AAAA','aa:bb');
CREATE TABLE taggings (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	tag_id INTEGER NOT NULL, 
	resource_type VARCHAR(16) NOT NULL, 
	resource_id BIGINT NOT NULL, 
	UNIQUE (tag_id, resource_type, resource_id), 
	FOREIGN KEY(tag_id) REFERENCES tags (id)
);
INSERT INTO "taggings" VALUES(1,1,'image',200000001);
INSERT INTO "taggings" VALUES(2,2,'image',200000001);
INSERT INTO "taggings" VALUES(3,3,'image',200000003);
INSERT INTO "taggings" VALUES(4,1,'droplet',500000001);
CREATE TABLE tags (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	account_id INTEGER NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	folded VARCHAR(255) NOT NULL, 
	UNIQUE (account_id, folded), 
	FOREIGN KEY(account_id) REFERENCES accounts (id)
);
INSERT INTO "tags" VALUES(1,1,'web','web');
INSERT INTO "tags" VALUES(2,1,'Über','über');
INSERT INTO "tags" VALUES(3,2,'WEB','web');
CREATE TABLE thinned (
	object_id INTEGER NOT NULL, 
	PRIMARY KEY (object_id), 
	FOREIGN KEY(object_id) REFERENCES objects (id)
)
 WITHOUT ROWID

;
INSERT INTO "thinned" VALUES(2);
CREATE TABLE tokens (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	account_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	scopes TEXT, 
	created_at BIGINT NOT NULL, 
	revoked_at BIGINT, 
	FOREIGN KEY(account_id) REFERENCES accounts (id), 
	UNIQUE (digest)
);
INSERT INTO "tokens" VALUES(1,1,'first','d',NULL,5,NULL);
CREATE TABLE uploads (
	id VARCHAR(36) NOT NULL, 
	account_id INTEGER NOT NULL, 
	request TEXT NOT NULL, 
	received_bytes BIGINT NOT NULL, 
	spooled_bytes BIGINT NOT NULL, 
	packed BOOLEAN NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	image_id INTEGER, 
	created_at BIGINT NOT NULL, action_id BIGINT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(account_id) REFERENCES accounts (id), 
	FOREIGN KEY(image_id) REFERENCES images (id)
);
INSERT INTO "uploads" VALUES('u',1,'{}',3,2,1,'open',NULL,5,NULL);
CREATE INDEX objects_of_action ON objects (action_id);
CREATE INDEX objects_condemned ON objects (state) WHERE state = 'condemned';
CREATE INDEX images_of_account ON images (account_id, id);
CREATE UNIQUE INDEX one_collect ON actions (type) WHERE status = 'in-progress' AND type = 'collect';
CREATE INDEX actions_of_resource ON actions (resource_type, resource_id, id);
CREATE INDEX actions_in_progress ON actions (status) WHERE status = 'in-progress';
CREATE UNIQUE INDEX one_transfer_a_region ON actions (resource_id, region) WHERE status = 'in-progress' AND type = 'transfer';
CREATE UNIQUE INDEX one_import_an_image ON actions (resource_id) WHERE status = 'in-progress' AND type = 'import';
CREATE INDEX actions_of_account ON actions (account_id, id);
CREATE INDEX repeats_by_age ON repeats (created_at);
CREATE INDEX holds_of_action ON holds (action_id);
CREATE INDEX images_public ON images (public);
CREATE INDEX images_that_expire ON images (expires_at) WHERE expires_at IS NOT NULL;
CREATE UNIQUE INDEX one_image_a_second ON images (resource_id, created_at) WHERE resource_id IS NOT NULL;
CREATE UNIQUE INDEX one_action_a_droplet ON actions (resource_id) WHERE status = 'in-progress' AND resource_type = 'droplet';
CREATE UNIQUE INDEX one_expire ON actions (type) WHERE status = 'in-progress' AND type = 'expire';
CREATE INDEX replicas_of_manifest ON replicas (manifest_id);
CREATE INDEX droplets_of_account ON droplets (account_id, id);
CREATE INDEX droplets_of_manifest ON droplets (manifest_id);
CREATE INDEX droplets_with_backups ON droplets (backup_due_at) WHERE backup_due_at IS NOT NULL;
CREATE INDEX droplets_to_retry ON droplets (backup_retry_at) WHERE backup_retry_at IS NOT NULL;
CREATE INDEX taggings_of_resource ON taggings (resource_type, resource_id);
CREATE UNIQUE INDEX one_offer_an_image ON account_transfers (image_id) WHERE status = 'pending';
CREATE INDEX reads_of_manifest ON reads (manifest_id);
CREATE INDEX refs_of_manifest ON refs (manifest_id);
CREATE INDEX samples_of_manifest ON samples (manifest_id);
CREATE UNIQUE INDEX one_compact ON actions (type) WHERE status = 'in-progress' AND type = 'compact';
CREATE UNIQUE INDEX one_scrub_a_region ON actions (region) WHERE status = 'in-progress' AND type = 'scrub';
CREATE UNIQUE INDEX one_verify_an_image ON actions (resource_id) WHERE status = 'in-progress' AND type = 'verify';
CREATE UNIQUE INDEX one_heal_a_region ON actions (region) WHERE status = 'in-progress' AND type = 'heal';
CREATE INDEX actions_waiting ON actions (lane, id) WHERE status = 'in-progress' AND process_id IS NULL;
CREATE INDEX actions_claimed ON actions (process_id) WHERE process_id IS NOT NULL;
CREATE INDEX objects_to_check ON objects (region, checked_at, id) WHERE state = 'live';
CREATE INDEX uploads_open ON uploads (status) WHERE status = 'open';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('images',200000004);
INSERT INTO "sqlite_sequence" VALUES('actions',3000000002);
INSERT INTO "sqlite_sequence" VALUES('droplets',500000001);
INSERT INTO "sqlite_sequence" VALUES('accounts',2);
INSERT INTO "sqlite_sequence" VALUES('tokens',1);
INSERT INTO "sqlite_sequence" VALUES('processes',4);
INSERT INTO "sqlite_sequence" VALUES('objects',7);
INSERT INTO "sqlite_sequence" VALUES('tags',3);
INSERT INTO "sqlite_sequence" VALUES('taggings',4);
INSERT INTO "sqlite_sequence" VALUES('ssh_keys',1);
INSERT INTO "sqlite_sequence" VALUES('account_transfers',1);
INSERT INTO "sqlite_sequence" VALUES('replicas',2);
INSERT INTO "sqlite_sequence" VALUES('reads',1);
COMMIT;
