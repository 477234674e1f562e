"""The chassis' own tables; every service's database has them, made by its own migrations.

They are plain tables, not mapped classes: nothing about them is business, and each module here that owns
one (outbox, inbox, idempotency, dead letters) reads and writes it by itself.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""One convention of constraint names, for the metadata and the SQL of the migrations alike."""

chassis_metadata = MetaData(naming_convention=NAMING)

outbox = Table(
    "outbox",
    chassis_metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.db_now()),
    # "Has this order an unsent command?": asked by the sweeper.
    Index(None, "key"),
)

inbox = Table(
    "inbox",
    chassis_metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.db_now()),
    Index(None, "received_at"),
)

idempotency_keys = Table(
    "idempotency_keys",
    chassis_metadata,
    Column("subject", Text, primary_key=True),
    Column("operation", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("created", Boolean, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.db_now()),
    Index(None, "created_at"),
)

dead_letters = Table(
    "dead_letters",
    chassis_metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("source_topic", Text, nullable=False),
    Column("source_partition", Integer, nullable=False),
    Column("source_offset", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("payload", LargeBinary, nullable=False),
    # A broker that has lost its data counts offsets from 0 again, so the place alone is not unique.
    Column("digest", LargeBinary, nullable=False),
    Column("error", Text, nullable=False),
    Column("stack", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'open'")),
    Column("failed_at", DateTime(timezone=True), nullable=False, server_default=func.db_now()),
    Column("settled_at", DateTime(timezone=True)),
    Column("settled_by", Text),
    Column("settled_reason", Text),
    UniqueConstraint(
        "source_topic",
        "source_partition",
        "source_offset",
        "digest",
        # All four columns would be longer than a name may be.
        name="uq_dead_letters_source_topic",
    ),
    CheckConstraint("state IN ('open', 'redriven', 'discarded')", name="state"),
    Index(None, "state"),
)
